// The unigram model: the segmentation with the best sum of piece scores.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/word_model.h"

namespace weft {

struct UnigramPiece {
  std::string_view text;
  int32_t id = 0;
  float score = 0;
  bool is_user_defined = false;
};

struct UnigramScratch : ModelScratch {
  struct Best {
    float score;
    int32_t id;
    int32_t begin;  // -1: no path ends here
  };
  std::vector<Best> best_until;  // by end position
};

/// Immutable. Viterbi with the reference's order of additions and its rounding, so that near ties fall the same way.
class UnigramModel : public WordModel {
 public:
  /// The pieces' texts are not empty and together shorter than 2^24 bytes. `byte_ids` holds the ids of the 256 byte
  /// pieces that stand for unknown characters; empty: a run of unknown characters is one `unknown_id`.
  UnigramModel(const std::vector<UnigramPiece>& pieces, int32_t unknown_id, std::vector<int32_t> byte_ids);

  void encode(std::string_view text,
              const char* readable_end,
              ModelScratch& scratch,
              std::vector<int32_t>& ids) const override;
  std::unique_ptr<ModelScratch> make_scratch() const override { return std::make_unique<UnigramScratch>(); }

 private:
  struct Node {
    int32_t id = -1;  // of the piece that ends here
    float score = 0;
    bool is_user_defined = false;
  };
  struct Edge {
    uint32_t key = 0;    // parent << 8 | byte
    uint32_t child = 0;  // 0: free, for the root is nobody's child
  };

  void insert(const UnigramPiece& piece);
  uint32_t child(uint32_t node, unsigned char byte) const;
  void extend_paths(std::string_view text, size_t begin, size_t character_end, UnigramScratch& scratch) const;
  void append_best(std::string_view text, const UnigramScratch& scratch, std::vector<int32_t>& ids) const;
  void append_unknown(std::string_view character, bool follows_unknown, std::vector<int32_t>& ids) const;

  std::vector<Node> nodes_;
  std::vector<Edge> edges_;  // open addressing
  int32_t unknown_id_;
  std::vector<int32_t> byte_ids_;
  float unknown_score_ = 0;
  float max_score_ = 0;
};

}  // namespace weft
