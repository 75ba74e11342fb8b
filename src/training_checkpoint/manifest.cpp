#include "training_checkpoint/manifest.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kName = "manifest.json";
constexpr int64_t kMaxBytes = 16 << 20;

/// A name that leads out of the folder is no file of a checkpoint.
bool stays_inside(const fs::path& name) {
  return !name.empty() && name.is_relative() &&
         std::none_of(name.begin(), name.end(), [](const fs::path& part) { return part == ".." || part == "."; });
}

ManifestFile parse_entry(const Json& entry, const std::string& path) {
  bool is_valid = entry.is_object() && entry.contains("name") && entry["name"].is_string() && entry.contains("bytes") &&
                  entry["bytes"].is_number_unsigned() && entry.contains("xxh3_128") && entry["xxh3_128"].is_string();
  if (!is_valid) fail_input("{}: an entry without name, bytes or xxh3_128; damaged", printable(path));
  ManifestFile file{.name = entry["name"], .bytes = entry["bytes"], .checksum = entry["xxh3_128"]};
  if (!stays_inside(file.name)) fail_input("{}: {} is no file of the folder", printable(path), printable(file.name));
  return file;
}

}  // namespace

std::vector<std::string> list_checkpoint_files(const std::string& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    std::string name = fs::relative(entry.path(), folder).string();
    if (entry.is_regular_file() && name != kName) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

void write_manifest(const std::string& folder, const std::vector<ManifestFile>& files) {
  Json list = Json::array();
  for (const ManifestFile& file : files) {
    list.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.checksum}});
  }
  std::string path = folder + "/" + kName;
  write_whole_file(path, Json{{"format", 1}, {"files", std::move(list)}}.dump(2) + "\n");
  sync_file(path);
  sync_directory(folder);
}

std::vector<ManifestFile> read_manifest(const std::string& folder) {
  std::string path = folder + "/" + kName;
  if (!path_exists(path)) fail_input("{}: no manifest.json; the save was not completed", printable(folder));
  File file(path);
  if (file.size() > kMaxBytes) fail_input("{}: {} bytes, at most {} expected", printable(path), file.size(), kMaxBytes);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("files") || !json["files"].is_array() || json["files"].empty()) {
    fail_input("{}: no list of files; damaged", printable(path));
  }
  std::vector<ManifestFile> files;
  for (const Json& entry : json["files"]) files.push_back(parse_entry(entry, path));
  return files;
}

void verify_manifest(const std::string& folder, size_t part, size_t num_parts) {
  std::vector<ManifestFile> files = read_manifest(folder);
  for (const ManifestFile& expected : files) {
    File file(folder + "/" + expected.name);
    if (file.size() != expected.bytes) {
      fail_input("{}: {} bytes, the manifest says {}", printable(file.path()), file.size(), expected.bytes);
    }
  }
  for (size_t i = part; i < files.size(); i += num_parts) {
    std::string path = folder + "/" + files[i].name;
    std::string checksum = file_checksum(path);
    if (checksum != files[i].checksum) {
      fail_input(
          "{}: checksum {}, the manifest says {}; damaged", printable(path), checksum, printable(files[i].checksum));
    }
  }
}

}  // namespace weft
