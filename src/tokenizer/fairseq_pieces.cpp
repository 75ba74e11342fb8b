#include "tokenizer/fairseq_pieces.h"

#include <array>

#include "core/error.h"
#include "tokenizer/sentencepiece_model.pb.h"

namespace weft {

namespace {

using weft::sentencepiece::Model;
using Piece = Model::Piece;

struct Known {
  const char* name;
  Piece::Type type;
};

constexpr std::array kFirst = {
    Known{"<unk>", Piece::UNKNOWN}, Known{"<s>", Piece::CONTROL}, Known{"</s>", Piece::CONTROL}};
constexpr std::array kFairseqFirst = {Known{"<s>", Piece::CONTROL},
                                      Known{"<pad>", Piece::CONTROL},
                                      Known{"</s>", Piece::CONTROL},
                                      Known{"<unk>", Piece::UNKNOWN}};

void add(const Known& known, Model& model) {
  Piece& piece = *model.add_pieces();
  piece.set_piece(known.name);
  piece.set_type(known.type);
}

}  // namespace

void put_in_fairseq_order(Model& model, const std::string& where) {
  constexpr int kNumFirst = static_cast<int>(kFirst.size());
  for (int i = 0; i < kNumFirst; ++i) {
    const Known& known = kFirst[static_cast<size_t>(i)];
    if (i < model.pieces_size() && model.pieces(i).piece() == known.name && model.pieces(i).type() == known.type)
      continue;
    fail_input(
        "{}: piece {} is not {}, as in models of that name from fairseq; put the model's tokenizer.json beside it",
        where,
        i,
        known.name);
  }
  Model ordered = model;
  ordered.clear_pieces();
  for (const Known& known : kFairseqFirst) add(known, ordered);
  for (int i = kNumFirst; i < model.pieces_size(); ++i) *ordered.add_pieces() = model.pieces(i);
  add({"<mask>", Piece::CONTROL}, ordered);
  model = std::move(ordered);
}

}  // namespace weft
