#include "checkpoint/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>

#include "checkpoint/file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/keras_hdf5.h"
#include "checkpoint/nearest_name.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensorflow_bundle.h"
#include "checkpoint/torch_checkpoint.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHdf5Magic = "\x89HDF\r\n\x1a\n";

bool has_torch_ending(const std::string& path) {
  return path.ends_with(".pth") || path.ends_with(".pt") || path.ends_with(".bin");
}

std::unique_ptr<CheckpointReader> open_file(const std::string& path, const std::string& file_path) {
  std::string magic(8, '\0');
  {
    File file(file_path);
    file.read(0, magic.data(), std::min<int64_t>(file.size(), 8));
  }
  if (magic.starts_with("GGUF")) return open_gguf(file_path);
  if (magic == kHdf5Magic) return open_keras_hdf5(path, file_path);
  if (file_path.ends_with(".index")) return open_tensorflow_bundle(path, file_path);
  if (file_path.ends_with(".bin.index.json")) return open_sharded_torch_checkpoint(path, file_path);
  if (file_path.ends_with(".index.json")) return open_sharded_safetensors(path, file_path);
  if (begins_as_torch_file(magic) || has_torch_ending(file_path)) return open_torch_checkpoint(path, file_path);
  if (file_path.ends_with(".gguf")) fail_input("{}: not a GGUF file: it doesn't begin with GGUF", printable(file_path));
  if (file_path.ends_with(".h5")) fail_input("{}: not an HDF5 file, or damaged", printable(file_path));
  return open_safetensors(file_path);
}

std::vector<std::string> files_ending(const std::string& folder, std::string_view ending) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), last; !error && it != last; it.increment(error)) {
    if (it->path().filename().string().ends_with(ending)) found.push_back(it->path().string());
  }
  if (error) fail_input("{}: cannot list the folder: {}", printable(folder), error.message());
  std::sort(found.begin(), found.end());
  return found;
}

std::unique_ptr<CheckpointReader> open_folder(const std::string& folder) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "model.weights.h5"}) {
    std::string path = (fs::path(folder) / name).string();
    if (path_exists(path)) return open_file(folder, path);
  }
  for (std::string_view ending :
       {".weights.h5", ".gguf", ".index", ".pth", "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    std::vector<std::string> found = files_ending(folder, ending);
    if (found.size() == 1) return open_file(folder, found[0]);
    if (found.size() > 1) {
      fail_input("{}: holds several checkpoints, name one of them: {}",
                 printable(folder),
                 printable(fmt::format("{}", fmt::join(found, ", ")), 400));
    }
  }
  fail_input(
      "{}: holds no checkpoint; looked for model.safetensors, model.safetensors.index.json, *.weights.h5, *.gguf, "
      "*.index, *.pth, pytorch_model.bin, pytorch_model.bin.index.json",
      printable(folder));
}

}  // namespace

const TensorInfo& CheckpointReader::info(std::string_view name) const {
  if (const TensorInfo* found = find(name)) return *found;
  std::string nearest = nearest_name(name, names());
  fail_input(
      "{}: holds no tensor {}{}",
      printable(path()),
      printable(name),
      nearest.empty() ? "; wrong family for these weights?" : fmt::format("; the nearest is {}", printable(nearest)));
}

void CheckpointReader::read(std::string_view name, void* into, DType dtype) const {
  const Shape& shape = info(name).shape;
  constexpr std::array<int64_t, Shape::kMaxRank> kOrigin{};
  read_slice(name, {kOrigin.data(), static_cast<size_t>(shape.rank())}, {shape.begin(), shape.end()}, into, dtype);
}

std::unique_ptr<CheckpointReader> open_checkpoint(const std::string& path) {
  if (!path_exists(path) && path_exists(path + ".index")) return open_file(path, path + ".index");
  if (!path_exists(path)) {
    fail_input(
        "{}: no such checkpoint; expected a folder, a .safetensors, a .gguf, a .weights.h5 or a .pth file, or the "
        "prefix of a TensorFlow checkpoint",
        printable(path));
  }
  return is_folder(path) ? open_folder(path) : open_file(path, path);
}

}  // namespace weft
