#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "core/error.h"
#include "tokenizer/scratch_pool.h"

namespace weft {

namespace {

constexpr size_t kMaxPatternBytes = size_t{1} << 16;
// What published patterns need at one place is below a thousand; a pattern that needs more backtracks without end.
constexpr uint32_t kMatchLimit = 2'000'000;
constexpr size_t kJitStackBytes = size_t{1} << 20;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

/// Oniguruma's \h is a hexadecimal digit and its \w holds marks and connectors; PCRE2 means others by them.
std::string translate_oniguruma(std::string_view pattern) {
  static constexpr std::string_view kWord = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc})";
  std::string out;
  int class_depth = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      class_depth += c == '[' ? 1 : c == ']' && class_depth > 0 ? -1 : 0;
      out.push_back(c);
      continue;
    }
    const char escaped = pattern[++i];
    const bool in_class = class_depth > 0;
    if (escaped == 'w') {
      out += in_class ? std::string(kWord) : "[" + std::string(kWord) + "]";
    } else if (escaped == 'W' && !in_class) {
      out += "[^" + std::string(kWord) + "]";
    } else if (escaped == 'h') {
      out += in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
    } else {
      out += {c, escaped};
    }
  }
  return out;
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 160> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

/// What one match call writes to; kept in a pool, since several threads may match at once.
struct Regex::Match {
  explicit Match(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr)) {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Match() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Match(const Match&) = delete;
  Match& operator=(const Match&) = delete;

  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

struct Regex::Program {
  ~Program() { pcre2_code_free(code); }

  std::string where;
  pcre2_code* code = nullptr;
  ScratchPool<Match> pool;
};

Regex::Regex(std::string_view pattern, const std::string& where) : program_(std::make_unique<Program>()) {
  if (pattern.size() > kMaxPatternBytes) {
    fail_input("{}: a regular expression of {} bytes; the limit is {}", where, pattern.size(), kMaxPatternBytes);
  }
  const std::string translated = translate_oniguruma(pattern);
  int code = 0;
  PCRE2_SIZE offset = 0;
  // In Oniguruma's default dialect ^ and $ match at line ends.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE;
  program_->where = where;
  program_->code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &code, &offset, nullptr);
  if (program_->code == nullptr) {
    fail_input("{}: the regular expression '{}' cannot be used: {} (at byte {})",
               where,
               printable(pattern),
               pcre2_message(code),
               offset);
  }
  pcre2_jit_compile(program_->code, PCRE2_JIT_COMPLETE);  // without it the interpreter does the same, slower
}

Regex::~Regex() = default;

std::optional<TextSpan> Regex::find(std::string_view text, size_t from) const {
  std::unique_ptr<Match> match = program_->pool.take([&] { return std::make_unique<Match>(program_->code); });
  // The text was checked once as a whole; checking again at every match would take quadratic time.
  const int result = pcre2_match(program_->code,
                                 reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(),
                                 from,
                                 PCRE2_NO_UTF_CHECK,
                                 match->data,
                                 match->context);
  std::optional<TextSpan> span;
  if (result >= 0) {
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match->data);
    span = TextSpan{.begin = bounds[0], .end = bounds[1]};
  }
  program_->pool.give_back(std::move(match));
  if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return span;
  fail_input("{}: the regular expression gave up on this text: {}", program_->where, pcre2_message(result));
}

}  // namespace weft
