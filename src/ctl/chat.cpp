// chat: one message, or a conversation in the terminal. Reasoning is shown dimmed.
#include <istream>
#include <iterator>
#include <ostream>

#include "base/json.h"
#include "ctl/commands.h"

namespace fathom::ctl {
namespace {

constexpr const char* kDim = "\x1b[2m";
constexpr const char* kPlain = "\x1b[0m";
constexpr const char* kPath = "/v1/chat/completions";

// Writes deltas as they come: dim while the model reasons, plain when it answers.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(Console& console) : console_(console) {}

  void print(const Delta& delta) {
    if (!delta.reasoning.empty()) write(delta.reasoning, true);
    if (!delta.content.empty()) write(delta.content, false);
    console_.out << std::flush;
  }
  void end() {
    if (dim_ && console_.color) console_.out << kPlain;
    dim_ = false;
    console_.out << std::endl;
  }

 private:
  void write(std::string_view text, bool reasoning) {
    if (reasoning != dim_) {
      // Without colour the two are kept apart by words.
      if (console_.color) {
        console_.out << (reasoning ? kDim : kPlain);
      } else if (reasoning) {
        console_.out << "[reasoning] ";
      }
      if (!reasoning) console_.out << "\n\n";
      dim_ = reasoning;
    }
    console_.out << (console_.out_is_terminal ? printable(text) : std::string(text));
  }

  Console& console_;
  bool dim_ = false;
};

Json answer_json(const std::string& model, const Generated& answer) {
  return {{"model", model},
          {"reasoning", answer.reasoning},
          {"content", answer.content},
          {"finish_reason", answer.finish_reason},
          {"usage",
           {{"prompt_tokens", answer.prompt_tokens},
            {"cached_tokens", answer.cached_tokens},
            {"completion_tokens", answer.completion_tokens}}}};
}

class Conversation {
 public:
  Conversation(const ChatOptions& options, Console& console, ClientConfig config, std::string model)
      : options_(options), console_(console), client_(std::move(config)), model_(std::move(model)) {
    restart();
  }

  void restart() {
    turns_.clear();
    if (!options_.system.empty()) turns_.push_back({"system", options_.system});
  }

  // Sends `message`, prints the answer and keeps both. An interrupted answer is kept as far as it
  // came.
  Status say(const std::string& message) {
    turns_.push_back({"user", message});
    AnswerPrinter printer(console_);
    std::string content;
    const Result<Generated> answer =
        generate(client_, kPath, chat_body(model_, turns_, options_.sampling, options_.thinking),
                 [&](const Delta& delta) {
                   content.append(delta.content);
                   if (!console_.json) printer.print(delta);
                   return true;
                 });
    if (!answer.is_ok() && answer.status().code() != Code::kCancelled) {
      if (!content.empty()) printer.end();
      turns_.pop_back();
      return answer.status();
    }
    if (console_.json && answer.is_ok()) {
      console_.out
          << answer_json(model_, *answer).dump(-1, ' ', false, Json::error_handler_t::replace)
          << std::endl;
    } else {
      printer.end();
    }
    turns_.push_back({"assistant", content});
    return answer.status();
  }

  const std::string& model() const { return model_; }

 private:
  const ChatOptions& options_;
  Console& console_;
  HttpClient client_;
  std::string model_;
  std::vector<ChatTurn> turns_;
};

// Reads lines until the end of input or /exit. An interrupt ends an answer, or at the prompt the
// conversation.
int converse(Conversation& conversation, Console& console) {
  console.err << "Talking with " << printable(conversation.model())
              << ". /reset starts again, /exit or end of input ends.\n";
  std::string line;
  while (true) {
    console.out << (console.color ? "\x1b[1m> \x1b[0m" : "> ") << std::flush;
    if (!std::getline(console.in, line)) break;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/reset") {
      conversation.restart();
      continue;
    }
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    const Status said = conversation.say(line);
    if (console.interrupted != nullptr) *console.interrupted = false;
    if (said.is_ok() || said.code() == Code::kCancelled) continue;
    report_error(console, said);
    if (said.code() == Code::kUnavailable) return kExitUnavailable;
  }
  console.out << std::endl;
  return kExitOk;
}

}  // namespace

int run_chat(const ChatOptions& options, Console& console) {
  Result<ClientConfig> config = client_config(options.server, console);
  if (!config.is_ok()) return report_error(console, config.status());
  std::string model = options.model;
  if (model.empty()) {
    HttpClient client(*config);
    Result<std::string> first = first_model(client);
    if (!first.is_ok()) return report_error(console, first.status());
    model = std::move(first).value();
  }
  Conversation conversation(options, console, std::move(config).value(), model);
  std::string message = options.message;
  if (message.empty() && console.in_is_terminal && !console.json) {
    return converse(conversation, console);
  }
  if (message.empty()) message.assign(std::istreambuf_iterator<char>(console.in), {});
  if (message.empty()) return report_error(console, invalid_argument("there is no message"));
  const Status said = conversation.say(message);
  return said.is_ok() ? kExitOk : report_error(console, said);
}

}  // namespace fathom::ctl
