// The list of formats: names, how their templates are told apart, and which function renders each.
#include "text/chat_format.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "text/prompt_builder.h"

namespace fathom::text {
namespace {

struct FormatEntry {
  ChatFormat format;
  std::string_view name;
  ChatPrompt (*render)(std::span<const ChatMessage>, const ChatOptions&);
};

constexpr FormatEntry kFormats[] = {
    {ChatFormat::kDeepSeekV2, "deepseek-v2", render_deepseek_v2},
    {ChatFormat::kDeepSeekV3, "deepseek-v3", render_deepseek_v3},
    {ChatFormat::kDeepSeekV3_0324, "deepseek-v3-0324", render_deepseek_v3_0324},
    {ChatFormat::kDeepSeekR1, "deepseek-r1", render_deepseek_r1},
    {ChatFormat::kDeepSeekR1_0528, "deepseek-r1-0528", render_deepseek_r1_0528},
    {ChatFormat::kDeepSeekV3_1, "deepseek-v3.1", render_deepseek_v3_1},
};

// What a template does, read from it with white space, hyphens and "\n" taken out, which vary with
// the form that the template is shipped in.
struct TemplateSigns {
  ChatFormat format;
  std::array<std::string_view, 4> has, lacks;  // "" is had by all and asked of none
};

constexpr std::string_view kLastSystem = "setns.system_prompt=message['content']%}";
constexpr std::string_view kJoinedSystem =
    "setns.system_prompt=ns.system_prompt+''+message['content']%}";
constexpr std::string_view kDropsThoughts = "content.split('</think>')[1]";
constexpr std::string_view kPlainTurn = "{{'<｜User｜>'+message['content']}}";
constexpr std::string_view kTurnOpensAnswer = "+'<｜Assistant｜>'}}";
constexpr std::string_view kBareAnswer =
    "{%ifadd_generation_promptandnotns.is_tool%}{{'<｜Assistant｜>'}}{%endif%}";
constexpr std::string_view kThinkingAnswer =
    "{%ifadd_generation_promptandnotns.is_tool%}{{'<｜Assistant｜><think>'}}{%endif%}";
constexpr std::string_view kAnswerAfterAnswer =
    "{%ifadd_generation_promptandnotns.is_last_userandnotns.is_tool%}{{'<｜Assistant｜>'}}{%endif%"
    "}";
constexpr std::string_view kAnswerByThinking =
    "{{'<｜Assistant｜>'}}{%ifnotthinking%}{{'</think>'}}{%else%}{{'<think>'}}{%endif%}";

constexpr std::string_view kWordTurn = "{{'User:'+message['content']+''}}";
constexpr std::string_view kWordAnswer = "{{'Assistant:'+message['content']+eos_token}}";
constexpr std::string_view kWordPrompt = "{%ifadd_generation_prompt%}{{'Assistant:'}}{%endif%}";

constexpr TemplateSigns kSigns[] = {
    {ChatFormat::kDeepSeekV2,
     {kWordTurn, kWordAnswer, kWordPrompt, "{{message['content']+''}}"},
     {}},
    {ChatFormat::kDeepSeekV3,
     {kLastSystem, kPlainTurn, kBareAnswer},
     {kDropsThoughts, kJoinedSystem}},
    {ChatFormat::kDeepSeekV3_0324, {kJoinedSystem, kPlainTurn, kBareAnswer}, {kDropsThoughts}},
    {ChatFormat::kDeepSeekR1,
     {kLastSystem, kPlainTurn, kThinkingAnswer, kDropsThoughts},
     {kJoinedSystem, "enable_thinking"}},
    {ChatFormat::kDeepSeekR1_0528,
     {kJoinedSystem, kTurnOpensAnswer, kAnswerAfterAnswer, kDropsThoughts},
     {"enable_thinking"}},
    {ChatFormat::kDeepSeekV3_1,
     {kJoinedSystem, kPlainTurn, kAnswerByThinking, "content.split('</think>',1)[1]"},
     {}},
};

std::string squeeze(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i, 2) == "\\n") {
      ++i;
    } else if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r' && text[i] != '\n' &&
               text[i] != '-') {
      out.push_back(text[i]);
    }
  }
  return out;
}

bool shows(const TemplateSigns& signs, const std::string& squeezed) {
  const auto found = [&squeezed](std::string_view sign) {
    return squeezed.find(sign) != std::string::npos;
  };
  const auto unwanted = [&found](std::string_view sign) { return !sign.empty() && found(sign); };
  return std::all_of(signs.has.begin(), signs.has.end(), found) &&
         std::none_of(signs.lacks.begin(), signs.lacks.end(), unwanted);
}

std::string list_of_names() {
  std::string names;
  for (const FormatEntry& entry : kFormats)
    names.append(names.empty() ? "" : ", ").append(entry.name);
  return names;
}

const FormatEntry& entry_of(ChatFormat format) {
  const auto* entry = std::find_if(std::begin(kFormats), std::end(kFormats),
                                   [format](const FormatEntry& e) { return e.format == format; });
  FATHOM_CHECK(entry != std::end(kFormats), "a ChatFormat is missing from kFormats");
  return *entry;
}

}  // namespace

std::string_view chat_format_name(ChatFormat format) { return entry_of(format).name; }

Result<ChatFormat> chat_format_by_name(std::string_view name) {
  for (const FormatEntry& entry : kFormats) {
    if (entry.name == name) return entry.format;
  }
  return invalid_argument("chat format \"" + std::string(name) + "\" is not known; known are " +
                          list_of_names())
      .about("chat_format");
}

Result<ChatFormat> recognise_chat_format(std::string_view chat_template) {
  const std::string squeezed = squeeze(chat_template);
  for (const TemplateSigns& signs : kSigns) {
    if (shows(signs, squeezed)) return signs.format;
  }
  const std::string what = chat_template.empty() ? "the checkpoint has no chat template"
                                                 : "the checkpoint's chat template is not known";
  return invalid_argument(what + "; set chat_format to one of " + list_of_names())
      .about("chat_format");
}

Result<ChatPrompt> render(ChatFormat format, std::span<const ChatMessage> messages,
                          const ChatOptions& options) {
  if (messages.empty()) return invalid_argument("messages must not be empty").about("messages");
  if (options.continue_final && messages.back().role != Role::kAssistant) {
    const std::string where = "messages[" + std::to_string(messages.size() - 1) + "]";
    return invalid_argument(where + ".role must be assistant for its answer to be continued")
        .about(where);
  }
  return entry_of(format).render(messages, options);
}

void write_system(std::span<const ChatMessage> messages, SystemPolicy policy, PromptBuilder& out) {
  const ChatMessage* last = nullptr;
  for (const ChatMessage& message : messages) {
    if (!is_system(message)) continue;
    if (policy == SystemPolicy::kJoin) {
      if (last != nullptr) out.marker("\n\n");
      out.message(message.content);
    }
    last = &message;
  }
  if (policy == SystemPolicy::kLast && last != nullptr) out.message(last->content);
}

std::string_view after_last_think(std::string_view content) {
  const std::size_t at = content.rfind(kThinkClose);
  return at == std::string_view::npos ? content : content.substr(at + kThinkClose.size());
}

}  // namespace fathom::text
