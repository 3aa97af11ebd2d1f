// The YAML file, by yaml-cpp. Duplicate keys are found here: yaml-cpp keeps the first silently.
#include <yaml-cpp/yaml.h>

#include <set>

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
  if (root.IsNull()) return Status::ok();
  if (!root.IsMap()) return invalid_argument(file + ": must hold groups of settings");
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
  try {
    std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) return invalid_argument(name + ": must be one YAML document");
    if (documents.empty()) return out;
    FATHOM_RETURN_IF_ERROR(read_document(name, documents.front(), out));
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
