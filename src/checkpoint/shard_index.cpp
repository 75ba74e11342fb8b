#include "checkpoint/shard_index.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/file.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxFiles = 4096;

// Collects the "weight_map" of an index: tensor name → file name.
class IndexHandler : public nlohmann::json_sax<Json> {
 public:
  explicit IndexHandler(const std::string& path) : path_(path) {}

  std::map<std::string, std::string> weight_map;

  bool start_object(size_t) override {
    if (++depth_ == 2) is_weight_map_ = key_ == "weight_map";
    return true;
  }
  bool end_object() override {
    if (depth_-- == 2) is_weight_map_ = false;
    return true;
  }
  bool key(std::string& name) override {
    key_ = name;
    return true;
  }
  bool string(std::string& value) override {
    if (!is_weight_map_ || depth_ != 2) return true;
    if (!weight_map.emplace(key_, value).second) {
      fail_input("{}: tensor {} occurs twice in weight_map", printable(path_), printable(key_));
    }
    return true;
  }
  bool start_array(size_t) override { return not_in_weight_map(); }
  bool end_array() override { return true; }
  bool null() override { return not_in_weight_map(); }
  bool boolean(bool) override { return not_in_weight_map(); }
  bool number_integer(int64_t) override { return not_in_weight_map(); }
  bool number_unsigned(uint64_t) override { return not_in_weight_map(); }
  bool number_float(double, const std::string&) override { return not_in_weight_map(); }
  bool binary(Json::binary_t&) override { return not_in_weight_map(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail_input("{}: no JSON at byte {}; damaged file", printable(path_), position);
  }

 private:
  bool not_in_weight_map() const {
    if (is_weight_map_) fail_input("{}: weight_map holds something other than file names", printable(path_));
    return true;
  }

  const std::string& path_;
  int depth_ = 0;
  bool is_weight_map_ = false;
  std::string key_;
};

std::map<std::string, std::string> read_weight_map(const std::string& index_path) {
  File file(index_path);
  if (file.size() > kMaxIndexBytes) {
    fail_input("{}: {} bytes, an index has at most {}", printable(index_path), file.size(), kMaxIndexBytes);
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  IndexHandler handler(index_path);
  Json::sax_parse(text, &handler);
  if (handler.weight_map.empty()) fail_input("{}: has no weight_map", printable(index_path));
  return std::move(handler.weight_map);
}

// A shard named "../../etc/x" must not leave the folder.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// Every file in the map, once, checked to be there.
std::set<std::string> shard_names(const std::map<std::string, std::string>& weight_map, const std::string& index_path) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) {
    if (!is_plain_name(file)) {
      fail_input("{}: weight_map puts {} into {}, expected a file name in the same folder",
                 printable(index_path),
                 printable(tensor),
                 printable(file));
    }
    names.insert(file);
  }
  if (names.size() > kMaxFiles) {
    fail_input("{}: names {} files, at most {} expected", printable(index_path), names.size(), kMaxFiles);
  }
  return names;
}

}  // namespace

ShardIndex::ShardIndex(const std::string& path) : path_(path), weight_map_(read_weight_map(path)) {
  for (const std::string& name : shard_names(weight_map_, path_)) {
    std::string shard = path_of(name);
    if (!path_exists(shard)) {
      fail_input(
          "{}: the shard {} is missing from the folder; is the download complete?", printable(path_), printable(name));
    }
    files_.push_back(std::make_unique<File>(shard));
  }
}

std::string ShardIndex::path_of(const std::string& name) const {
  return (std::filesystem::path(path_).parent_path() / name).string();
}

void ShardIndex::check_tensors(const std::vector<StoredTensor>& tensors) const {
  std::map<std::string_view, std::string_view> found_in;
  for (const StoredTensor& tensor : tensors) found_in.emplace(tensor.info.name, tensor.info.file);
  for (const auto& [tensor, file] : weight_map_) {
    auto found = found_in.find(tensor);
    if (found == found_in.end() || found->second != path_of(file)) {
      fail_input(
          "{}: tensor {} should be in {}, which doesn't hold it", printable(path_), printable(tensor), printable(file));
    }
  }
}

}  // namespace weft
