// Rows of a reference: a text, its ids, and what they decode to.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace weft::test {

inline void expect_reference_rows(const Tokenizer& tokenizer, const nlohmann::json& rows) {
  for (const nlohmann::json& row : rows) {
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    const auto ids_special = row["ids_special"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text, false), ids) << row["text"].dump();
    EXPECT_EQ(tokenizer.encode(text, true), ids_special) << row["text"].dump();
    EXPECT_EQ(tokenizer.decode(ids, false), row["decode"].get<std::string>()) << row["text"].dump();
    EXPECT_EQ(tokenizer.decode(ids_special, true), row["decode_skip"].get<std::string>()) << row["text"].dump();
  }
}

}  // namespace weft::test
