// tokenize: text to ids or back, with a local tokenizer or the server's.
#include <charconv>
#include <istream>
#include <iterator>
#include <ostream>

#include "base/json.h"
#include "ctl/commands.h"
#include "text/tokenizer.h"

namespace fathom::ctl {
namespace {

Result<std::vector<int32_t>> parse_ids(std::string_view text) {
  std::vector<int32_t> ids;
  while (true) {
    const size_t start = text.find_first_not_of(" ,\t\r\n[]");
    if (start == std::string_view::npos) return ids;
    text.remove_prefix(start);
    int32_t id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc() || id < 0) {
      return invalid_argument("'" + printable(text.substr(0, 20)) + "' is not a token id");
    }
    ids.push_back(id);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
  }
}

// The JSON answer of a POST, or why there is none.
Result<Json> post(HttpClient& client, const std::string& path, const Json& body) {
  const std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  FATHOM_ASSIGN(const HttpResponse response, client.fetch({"POST", path, text}));
  FATHOM_RETURN_IF_ERROR(status_of(response.head, response.body));
  Result<Json> parsed = parse_json(response.body);
  if (!parsed.is_ok() || !parsed->is_object()) {
    return data_loss("the server's answer to " + path + " cannot be read");
  }
  return parsed;
}

Result<std::vector<int32_t>> encode(const TokenizeOptions& options, const std::string& text,
                                    const Console& console) {
  if (!options.model_dir.empty()) {
    const auto tokenizer = text::Tokenizer::load(options.model_dir);
    if (!tokenizer.is_ok()) return config_error(tokenizer.status());
    text::EncodeOptions how;
    how.add_bos = options.add_special && (*tokenizer)->adds_bos();
    return (*tokenizer)->encode(text, how);
  }
  FATHOM_ASSIGN(ClientConfig config, client_config(options.server, console));
  HttpClient client(std::move(config));
  FATHOM_ASSIGN(
      const Json answer,
      post(client, "/tokenize", {{"prompt", text}, {"add_special_tokens", options.add_special}}));
  const auto tokens = answer.find("tokens");
  if (tokens == answer.end()) return data_loss("the server's answer has no tokens");
  return parse_ids(tokens->dump());
}

Result<std::string> decode(const TokenizeOptions& options, const std::vector<int32_t>& ids,
                           const Console& console) {
  if (!options.model_dir.empty()) {
    const auto tokenizer = text::Tokenizer::load(options.model_dir);
    if (!tokenizer.is_ok()) return config_error(tokenizer.status());
    return (*tokenizer)->decode(ids);
  }
  FATHOM_ASSIGN(ClientConfig config, client_config(options.server, console));
  HttpClient client(std::move(config));
  FATHOM_ASSIGN(const Json answer, post(client, "/detokenize", {{"tokens", ids}}));
  const auto text = answer.find("prompt");
  if (text == answer.end() || !text->is_string()) return data_loss("the answer has no prompt");
  return text->get<std::string>();
}

int print_ids(const std::vector<int32_t>& ids, Console& console) {
  if (console.json) {
    console.out << Json({{"count", ids.size()}, {"tokens", ids}}).dump() << "\n";
    return kExitOk;
  }
  for (size_t i = 0; i < ids.size(); ++i) console.out << (i == 0 ? "" : " ") << ids[i];
  console.out << "\n";
  return kExitOk;
}

}  // namespace

int run_tokenize(const TokenizeOptions& options, Console& console) {
  std::string text = options.text;
  if (text.empty()) text.assign(std::istreambuf_iterator<char>(console.in), {});
  if (!options.detokenize) {
    const Result<std::vector<int32_t>> ids = encode(options, text, console);
    return ids.is_ok() ? print_ids(*ids, console) : report_error(console, ids.status());
  }
  const Result<std::vector<int32_t>> ids = parse_ids(text);
  if (!ids.is_ok()) return report_error(console, ids.status());
  const Result<std::string> decoded = decode(options, *ids, console);
  if (!decoded.is_ok()) return report_error(console, decoded.status());
  if (console.json) {
    console.out << Json({{"text", *decoded}}).dump(-1, ' ', false, Json::error_handler_t::replace)
                << "\n";
  } else {
    console.out << (console.out_is_terminal ? printable(*decoded) : *decoded) << "\n";
  }
  return kExitOk;
}

}  // namespace fathom::ctl
