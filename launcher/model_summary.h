// Words for models and sizes that inspect, plan and bench share.
#pragma once

#include <cstdint>
#include <string>

#include "models/registry.h"

namespace weft {

/// "1.52 GB", "268.9 MB", "12.3 kB"
std::string format_bytes(int64_t bytes);

/// "27.23 billion", "134.5 million", "122304"
std::string format_count(int64_t count);

/// Bytes of "24GB", "16GiB", "500MB" or a plain number. Throws Error(usage).
int64_t parse_bytes(const std::string& text);

/// "gemma2-27b.json", "SmolLM2-135M-Instruct.Q4_1.gguf": the last part of the path.
std::string model_name(const std::string& path);

int64_t count_parameters(const LanguageModel& model);

}  // namespace weft
