// From the server flags to a client's configuration.
#include "base/file.h"
#include "ctl/commands.h"

namespace fathom::ctl {

Result<ClientConfig> client_config(const ServerOptions& options, const Console& console) {
  ClientConfig config;
  FATHOM_ASSIGN(config.url, parse_url(options.url));
  config.api_key = options.key;
  if (!options.key_file.empty()) {
    const Result<std::string> text = read_file(options.key_file, 4096);
    if (!text.is_ok()) return config_error(text.status());
    config.api_key = text->substr(0, text->find_first_of("\r\n"));
  }
  for (const char c : config.api_key) {
    if (c <= ' ' || c > '~') {
      return config_error(invalid_argument("the API key holds a character that no key has"));
    }
  }
  if (config.url.tls) {
    Result<std::shared_ptr<const TlsClient>> tls = TlsClient::make(options.tls);
    if (!tls.is_ok()) return config_error(tls.status());
    config.tls = std::move(tls).value();
  }
  config.bounds.idle =
      std::chrono::milliseconds(static_cast<int64_t>(options.timeout_seconds * 1e3));
  config.bounds.cancel = console.interrupted;
  return config;
}

}  // namespace fathom::ctl
