#include "generate/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <utility>

#include "checkpoint/output_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr const char* kVersion = "1";
constexpr const char* kIds = "ids";

/// A part of a slot that lies in one piece, and where it belongs in the file.
struct Piece {
  std::string name;
  int64_t first = 0;  // element of the whole tensor
  int64_t count = 0;
  Tensor values;  // a view of the cache
};

/// In the order of the file's tensors.
std::vector<OutputTensor> tensors_of(const KvCacheShape& shape, const Session& session) {
  std::vector<OutputTensor> tensors = {{kIds, {static_cast<int64_t>(session.ids.size())}, DType::i32}};
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    tensors.push_back(
        {fmt::format("layers.{}.keys", layer), {shape.num_kv_heads, session.cached, shape.head_dim}, shape.dtype});
    tensors.push_back(
        {fmt::format("layers.{}.values", layer), {shape.num_kv_heads, session.cached, shape.value_dim()}, shape.dtype});
  }
  for (size_t i = 0; i < shape.states.size(); ++i) {
    tensors.push_back({fmt::format("states.{}", i), shape.states[i].shape, shape.states[i].dtype});
  }
  return tensors;
}

std::vector<Piece> pieces_of(KvCache& cache, int64_t slot, int64_t tokens) {
  const KvCacheShape& shape = cache.shape();
  std::vector<Piece> pieces;
  auto add_heads = [&](const std::string& name, Tensor& side) {
    int64_t width = side.size(3);
    Tensor rows = side.slice(slot, slot + 1).reshape({shape.num_kv_heads * cache.max_tokens(), width});
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
      pieces.push_back({.name = name,
                        .first = head * tokens * width,
                        .count = tokens * width,
                        .values = rows.slice(head * cache.max_tokens(), head * cache.max_tokens() + tokens)});
    }
  };
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    add_heads(fmt::format("layers.{}.keys", layer), cache.keys(layer));
    add_heads(fmt::format("layers.{}.values", layer), cache.values(layer));
  }
  for (size_t i = 0; i < shape.states.size(); ++i) {
    Tensor row = cache.state(static_cast<int64_t>(i)).slice(slot, slot + 1);
    pieces.push_back({.name = fmt::format("states.{}", i), .count = row.num_elements(), .values = row});
  }
  return pieces;
}

/// Of the beginnings of all weights that lie in memory as in a checkpoint (norms and tables do), and of how many bits
/// quantised ones have.
uint32_t fingerprint(const LanguageModel& model) {
  constexpr size_t kBytes = 4096;
  uint32_t crc = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    crc = extend_crc32c(crc, parameter.name.data(), parameter.name.size());
    const Tensor& value = parameter.value;
    if (value && is_quantized(value.layout())) {
      const auto layout = static_cast<uint8_t>(value.layout());
      crc = extend_crc32c(crc, &layout, sizeof(layout));
    }
    if (!value || value.layout() != Layout::row_major) continue;
    int64_t count = std::min(value.num_elements(), static_cast<int64_t>(kBytes / dtype_bytes(value.dtype())));
    Tensor first = on_host(value.reshape({value.num_elements()}).slice(0, count));
    crc = extend_crc32c(crc, first.raw(), first.bytes());
  }
  return crc;
}

std::string describe(const KvCacheShape& shape) {
  std::string text = fmt::format("{} layers of {} heads of {} and {} in {}",
                                 shape.num_layers,
                                 shape.num_kv_heads,
                                 shape.head_dim,
                                 shape.value_dim(),
                                 dtype_name(shape.dtype));
  for (const CacheState& state : shape.states) {
    text += fmt::format("; {} {}", to_string(state.shape), dtype_name(state.dtype));
  }
  return text;
}

uint32_t checksum(std::span<const int32_t> ids, const std::vector<Piece>& pieces) {
  uint32_t crc = extend_crc32c(0, ids.data(), ids.size_bytes());
  for (const Piece& piece : pieces) {
    crc = extend_crc32c(crc, on_host(piece.values).raw(), piece.values.bytes());
  }
  return crc;
}

int64_t parse_count(const std::string& path, const std::string& text) {
  bool is_number = !text.empty() && text.size() < 19 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number) fail_input("{}: a damaged session: \"{}\" is no number", printable(path), printable(text));
  return std::stoll(text);
}

}  // namespace

void write_session(
    const std::string& path, const LanguageModel& model, KvCache& cache, int64_t slot, const Session& session) {
  namespace fs = std::filesystem;
  std::vector<Piece> pieces = pieces_of(cache, slot, session.cached);
  std::map<std::string, std::string> metadata = {{"weft_session", kVersion},
                                                 {"family", model.info().family},
                                                 {"fingerprint", fmt::format("{:08x}", fingerprint(model))},
                                                 {"shape", describe(cache.shape())},
                                                 {"cached", std::to_string(session.cached)},
                                                 {"checksum", fmt::format("{:08x}", checksum(session.ids, pieces))},
                                                 {"notes", session.notes}};
  fs::path target = path;
  std::string folder = target.has_parent_path() ? target.parent_path().string() : ".";
  std::string stem = "." + target.filename().string() + ".part";
  auto layout = std::make_shared<SafetensorsLayout>(stem, tensors_of(cache.shape(), session), INT64_MAX, metadata);
  const std::string partial = folder + "/" + layout->files()[0].name;
  try {
    create_safetensors(folder, *layout);
    SafetensorsWriter writer(folder, layout);
    writer.write_run(kIds, 0, static_cast<int64_t>(session.ids.size()), session.ids.data(), DType::i32);
    for (const Piece& piece : pieces) {
      writer.write_run(piece.name, piece.first, piece.count, on_host(piece.values).raw(), piece.values.dtype());
    }
    writer.sync();
    rename_durably(partial, path);
  } catch (const Error& error) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    std::string_view reason = error.what();
    if (reason.starts_with(partial + ": ")) reason.remove_prefix(partial.size() + 2);
    fail_input("{}: the session cannot be saved: {}", printable(path), reason);
  }
}

SessionFile::SessionFile(std::string path, const LanguageModel& model, const KvCacheShape& shape)
    : path_(std::move(path)) {
  std::map<std::string, std::string> metadata = read_safetensors_metadata(path_);
  if (metadata["weft_session"] != kVersion) fail_input("{}: no session that weft saved", printable(path_));
  if (metadata["family"] != model.info().family ||
      metadata["fingerprint"] != fmt::format("{:08x}", fingerprint(model)) || metadata["shape"] != describe(shape)) {
    fail_input("{}: a session of another model, --dtype or --quantize ({}, {}); this one is {}, {}",
               printable(path_),
               printable(metadata["family"]),
               printable(metadata["shape"]),
               model.info().family,
               describe(shape));
  }
  reader_ = open_safetensors(path_);
  session_.cached = parse_count(path_, metadata["cached"]);
  session_.notes = metadata["notes"];
  const TensorInfo& ids = reader_->info(kIds);
  if (ids.shape.rank() != 1 || ids.dtype != DType::i32 || session_.cached < 1 || session_.cached > ids.shape[0]) {
    fail_input(
        "{}: a damaged session: {} tokens in the cache of {}", printable(path_), session_.cached, to_string(ids.shape));
  }
  session_.ids.resize(static_cast<size_t>(ids.shape[0]));
  for (const OutputTensor& tensor : tensors_of(shape, session_)) {
    const TensorInfo& info = reader_->info(tensor.name);
    if (info.shape == tensor.shape && info.dtype == tensor.dtype) continue;
    fail_input("{}: a damaged session: {} is {} {}, not {} {}",
               printable(path_),
               tensor.name,
               to_string(info.shape),
               dtype_name(info.dtype),
               to_string(tensor.shape),
               dtype_name(tensor.dtype));
  }
  std::vector<double> numbers(session_.ids.size());
  reader_->read(kIds, numbers.data(), DType::f64);
  std::transform(
      numbers.begin(), numbers.end(), session_.ids.begin(), [](double id) { return static_cast<int32_t>(id); });
  checksum_ = metadata["checksum"];
}

SessionFile::~SessionFile() = default;

void SessionFile::read_into(KvCache& cache, int64_t slot) const {
  std::vector<Piece> pieces = pieces_of(cache, slot, session_.cached);
  for (const Piece& piece : pieces) {
    const Shape& shape = reader_->info(piece.name).shape;
    std::vector<int64_t> begin(shape.rank(), 0), end(shape.begin(), shape.end());
    if (piece.count < shape.num_elements()) {
      begin[0] = piece.first / piece.count;
      end[0] = begin[0] + 1;
    }
    std::vector<std::byte> values(piece.values.bytes());
    reader_->read_slice(piece.name, begin, end, values.data(), piece.values.dtype());
    Tensor(piece.values).copy_from_host(values.data());
  }
  if (checksum_ == fmt::format("{:08x}", checksum(session_.ids, pieces))) return;
  fail_input("{}: a damaged session: its checksum is not that of what it holds", printable(path_));
}

}  // namespace weft
