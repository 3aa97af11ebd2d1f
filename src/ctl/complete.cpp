// complete: the model goes on from a text.
#include <istream>
#include <iterator>
#include <ostream>

#include "base/json.h"
#include "ctl/commands.h"

namespace fathom::ctl {

int run_complete(const CompleteOptions& options, Console& console) {
  Result<ClientConfig> config = client_config(options.server, console);
  if (!config.is_ok()) return report_error(console, config.status());
  HttpClient client(std::move(config).value());
  std::string model = options.model;
  if (model.empty()) {
    Result<std::string> first = first_model(client);
    if (!first.is_ok()) return report_error(console, first.status());
    model = std::move(first).value();
  }
  std::string prompt = options.prompt;
  if (prompt.empty()) prompt.assign(std::istreambuf_iterator<char>(console.in), {});
  if (prompt.empty()) return report_error(console, invalid_argument("there is no prompt"));
  const Result<Generated> answer =
      generate(client, "/v1/completions", completion_body(model, prompt, options.sampling),
               [&](const Delta& delta) {
                 if (console.json) return true;
                 console.out << (console.out_is_terminal ? printable(delta.content)
                                                         : std::string(delta.content))
                             << std::flush;
                 return true;
               });
  if (!console.json) console.out << std::endl;
  if (!answer.is_ok()) return report_error(console, answer.status());
  if (!console.json) return kExitOk;
  const Json body = {{"model", model},
                     {"text", answer->content},
                     {"finish_reason", answer->finish_reason},
                     {"usage",
                      {{"prompt_tokens", answer->prompt_tokens},
                       {"cached_tokens", answer->cached_tokens},
                       {"completion_tokens", answer->completion_tokens}}}};
  console.out << body.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  return kExitOk;
}

}  // namespace fathom::ctl
