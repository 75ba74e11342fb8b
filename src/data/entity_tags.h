// Entities as labels of words: "B-PER", "I-PER", "O" and their like.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weft {

/// Words (or tokens) first to last.
struct TaggedEntity {
  std::string label;
  int32_t first = 0, last = 0;
  friend bool operator==(const TaggedEntity&, const TaggedEntity&) = default;
};

/// Whether labels mark where entities begin: "B-PER"; also "B" of word segmentation.
bool marks_entities(const std::vector<std::string>& labels);

/// The labels of the entities that tags mark, sorted: of "B-PER" and "I-PER" it is "PER". None where they mark none.
std::vector<std::string> entity_types(const std::vector<std::string>& labels);

/// What a sequence of tags marks: BIO, BIOES, BMES, with or without a label behind. One that goes on where nothing
/// began begins, as the CoNLL-2000 evaluation has it.
std::vector<TaggedEntity> entities_of(const std::vector<std::string>& tags);

/// The same of indices into labels.
std::vector<TaggedEntity> entities_of(std::span<const int32_t> tags, const std::vector<std::string>& labels);

}  // namespace weft
