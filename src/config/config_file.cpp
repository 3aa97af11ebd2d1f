// The YAML file, by yaml-cpp. What it takes silently is found here: duplicate keys (the first
// wins), further documents, text behind a flow map or behind a control character. Its LoadAll does
// not end on some texts (one that begins with a comma), so that one document is read.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <string_view>

#include "base/file.h"
#include "config/settings.h"
#include "config/sources.h"

namespace fathom {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;

std::string at(const std::string& file, const YAML::Node& node) {
  return file + ":" + std::to_string(node.Mark().line + 1) + ": ";
}

// The keys of settings.def: which groups there are, and which settings each has.
struct Keys {
  std::set<std::string> groups;
  std::set<std::string> settings;  // "group.name"

  Keys() {
    for_each_group([this](std::string_view name, std::string_view) { groups.emplace(name); });
    Config shape;
    for_each_setting(shape,
                     [this](const SettingInfo& info, auto&) { settings.insert(info.key()); });
  }
};

bool is_marker(std::string_view line, std::string_view marker) {
  return line == marker || line.starts_with(std::string(marker) + " ");
}

// Whether `text` holds more than comments; refuses control characters and a second document.
Result<bool> check_lines(const std::string& text, const std::string& file) {
  bool content = false;
  bool begun = false;
  int number = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string where = file + ":" + std::to_string(++number) + ": ";
    auto is_control = [](char c) {
      return static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\r';
    };
    if (std::ranges::any_of(line, is_control)) {
      return invalid_argument(where + "holds a control character").about(file);
    }
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    const bool start = is_marker(line, "---") && !begun && !content;
    if (!start && (is_marker(line, "---") || is_marker(line, "..."))) {
      return invalid_argument(where + "begins a second document; one is read").about(file);
    }
    begun = true;
    content = content || !start || line.find_first_not_of("- \t\r") != std::string::npos;
  }
  return content;
}

// A scalar key that `seen` does not hold yet.
Result<std::string> read_key(const YAML::Node& key, const std::string& file,
                             std::set<std::string>& seen) {
  if (!key.IsScalar()) return invalid_argument(at(file, key) + "a key must be a word");
  if (!seen.insert(key.Scalar()).second) {
    return invalid_argument(at(file, key) + key.Scalar() + " is given twice").about(key.Scalar());
  }
  return key.Scalar();
}

Status read_group(const std::string& file, const std::string& group, const YAML::Node& members,
                  const Keys& keys, std::vector<GivenValue>& out) {
  if (members.IsNull()) return Status::ok();
  if (!members.IsMap()) {
    return invalid_argument(at(file, members) + group + " must hold settings (key: value)")
        .about(group);
  }
  std::set<std::string> seen;
  for (const auto& member : members) {
    FATHOM_ASSIGN(std::string name, read_key(member.first, file, seen));
    const std::string key = group + "." + name;
    if (!keys.settings.contains(key)) {
      return invalid_argument(at(file, member.first) + key + " is not a setting").about(key);
    }
    if (!member.second.IsScalar()) {
      return invalid_argument(at(file, member.first) + key + " must have one value").about(name);
    }
    out.push_back({name, member.second.Scalar(), at(file, member.first) + key});
  }
  return Status::ok();
}

Status read_document(const std::string& file, const YAML::Node& root,
                     std::vector<GivenValue>& out) {
  const Keys keys;
  std::set<std::string> seen;
  for (const auto& entry : root) {
    FATHOM_ASSIGN(std::string group, read_key(entry.first, file, seen));
    if (!keys.groups.contains(group)) {
      return invalid_argument(at(file, entry.first) + group + " is not a group of settings")
          .about(group);
    }
    FATHOM_RETURN_IF_ERROR(read_group(file, group, entry.second, keys, out));
  }
  return Status::ok();
}

}  // namespace

Result<std::vector<GivenValue>> read_config_text(const std::string& text, const std::string& name) {
  std::vector<GivenValue> out;
  FATHOM_ASSIGN(bool has_content, check_lines(text, name));
  if (!has_content) return out;
  try {
    YAML::Node root = YAML::Load(text);
    if (!root.IsMap() || root.Style() == YAML::EmitterStyle::Flow) {
      return invalid_argument(name + ": must hold groups of settings, one below the other")
          .about(name);
    }
    FATHOM_RETURN_IF_ERROR(read_document(name, root, out));
  } catch (const std::exception& error) {
    return invalid_argument(name + ": " + error.what()).about(name);
  }
  return out;
}

Result<std::vector<GivenValue>> read_config_file(const std::string& path) {
  FATHOM_ASSIGN(std::string text, read_file(path, kFileBytesMax));
  return read_config_text(text, path);
}

}  // namespace fathom
