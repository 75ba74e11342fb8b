// What a run trains on: rows of tokens, each a function of its index and the seed alone, so that neither the number of
// ranks nor where a run was interrupted changes what row comes when.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace weft {

/// A part of a row that attends to itself only: one document, or what of it fits.
struct RowSpan {
  int32_t begin = 0, length = 0;
  friend bool operator==(const RowSpan&, const RowSpan&) = default;
};

/// Tokens first to last of a span, counted from its begin, that are of a label: an entity, an answer.
struct RowMark {
  int32_t span = 0, label = 0, first = 0, last = 0;
  friend bool operator==(const RowMark&, const RowMark&) = default;
};

/// What a span says of two of its entities, by their first and last tokens counted from its begin.
struct RowRelation {
  int32_t span = 0, label = 0;
  int32_t subject_first = 0, subject_last = 0, object_first = 0, object_last = 0;
  friend bool operator==(const RowRelation&, const RowRelation&) = default;
};

/// Up to sequence_length tokens a span.
struct TrainingRow {
  std::vector<int32_t> ids;
  std::vector<int32_t> targets;  // the token that follows within the document, or a tag; −1: not scored
  std::vector<RowSpan> spans;
  std::vector<int32_t> segments = {};  // one a token; empty: all 0
  std::vector<int32_t> labels = {};    // one a span, of tasks that score sequences; −1: not scored
  std::vector<RowMark> marks = {};
  std::vector<RowRelation> relations = {};
  std::vector<float> scores = {};  // one a pair of spans: how alike they are
  /// What the model's norms take for each span: a label, or a list of numbers, one after the other.
  std::vector<int32_t> condition_labels = {};
  std::vector<float> condition_values = {};
  /// Of encoder-decoders: what the encoder reads, a source a span.
  std::vector<int32_t> source_ids = {};
  std::vector<RowSpan> sources = {};
  friend bool operator==(const TrainingRow&, const TrainingRow&) = default;
};

/// How documents become rows.
enum class Packing : uint8_t {
  split,  // documents one after the other, cut where a row is full: no token is lost, rows are full
  whole,  // whole documents as far as they fit a row (first fit); one that is longer than a row is cut off there
  none    // a document a row
};

struct DataSourceOptions {
  std::string path;   // a prepared token file (see token_file.h)
  double weight = 1;  // share of the rows
};

/// Which part of each source: its last documents can be held out. Of sources with fewer documents than 1 / fraction it
/// is their last tokens (of those with loss spans, which can't be cut, the last document).
enum class DataPart : uint8_t { all, training, held_out };

struct TrainingDataOptions {
  std::vector<DataSourceOptions> sources;
  DataPart part = DataPart::all;
  double held_out_fraction = 0;  // of `training` and `held_out`
  /// Of the model's tokenizer (tokenizer_fingerprint.h), which all files must have been made with; 0: any, but the same
  /// for all.
  uint64_t tokenizer_fingerprint = 0;
  int64_t sequence_length = 1024;
  Packing packing = Packing::split;
  bool shuffle = true;
  uint64_t seed = 0;
};

class TrainingData {
 public:
  virtual ~TrainingData() = default;
  /// Row `index` of the endless sequence of epochs, each in an order of its own. Thread-safe.
  virtual TrainingRow row(int64_t index) const = 0;
  /// Rows of one epoch of all sources (of the smallest number of rows that has seen each source once).
  virtual int64_t rows_per_epoch() const = 0;
  /// Tokens of the chosen part of all sources.
  virtual int64_t num_tokens() const = 0;
  virtual int64_t num_documents() const = 0;
  /// Those that are longer than a row of theirs, which ends before they do.
  virtual int64_t num_cut_documents() const { return 0; }
  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  /// The same for the same rows: of the files' contents and the options. Saved with a checkpoint, so that resuming on
  /// other data is noticed.
  virtual uint64_t fingerprint() const = 0;
};

/// Opens prepared files. Throws Error(bad_input) for files that are damaged, empty, or made with other tokenizers, and
/// for options without meaning (no source, a weight that isn't positive, a length below 1).
std::unique_ptr<TrainingData> open_training_data(const TrainingDataOptions& options);

}  // namespace weft
