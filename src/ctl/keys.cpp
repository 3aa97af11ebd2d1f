// keys create: a new API key, shown once, and the line that the server keeps.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <ostream>

#include "auth/api_keys.h"
#include "base/file.h"
#include "base/json.h"
#include "ctl/commands.h"

namespace fathom::ctl {
namespace {

Status append_line(const std::string& path, const std::string& line) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) return file_error("open", path, errno);
  const std::string text = line + "\n";
  const ssize_t n = ::write(fd.get(), text.data(), text.size());
  if (n != static_cast<ssize_t>(text.size()))
    return file_error("write", path, n < 0 ? errno : ENOSPC);
  return Status::ok();
}

}  // namespace

int run_keys_create(const KeysOptions& options, Console& console) {
  const Result<std::string> key = auth::generate_api_key();
  if (!key.is_ok()) return report_error(console, key.status());
  const Result<std::string> line = auth::make_api_key_line(options.name, *key);
  if (!line.is_ok()) return report_error(console, line.status());
  if (!options.append_to.empty()) {
    const Status appended = append_line(options.append_to, *line);
    if (!appended.is_ok()) return report_error(console, config_error(appended));
  }
  if (console.json) {
    console.out << Json({{"name", options.name}, {"key", *key}, {"line", *line}}).dump() << "\n";
    return kExitOk;
  }
  console.out << *key << "\n";
  if (options.append_to.empty()) {
    console.err << "The key above is shown once. Line for the server's --api-key-file:\n";
    console.out << *line << "\n";
  } else {
    console.err << "The key above is shown once; its hash was appended to " << options.append_to
                << ".\n";
  }
  return kExitOk;
}

}  // namespace fathom::ctl
