// Tokenizing speed: MB/s of one core on plain text, and time(2n)/time(n) on hostile inputs with n
// of 1 MiB. Times are of the thread's processor, and n and 2n take turns, so that other programs of
// the machine disturb them less; where they still do, a ratio is measured again (as in
// linearity_test).
//
//   text_bench FOLDER [TEXT_FILE]
//
// FOLDER holds deepseek_v3, qwen3 and llama3_1 as ../shared/tokenizers does. TEXT_FILE is the plain
// text; without it the generator of the tests makes 8 MB of prose, code and Chinese.
#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/support/real_tokenizers.h"
#include "tests/text/hostile_patterns.h"
#include "tests/text/string_generator.h"
#include "text/tokenizer.h"

namespace fathom::text {
namespace {

constexpr std::size_t kPlainBytes = 8 << 20;
constexpr std::size_t kHostileBytes = 1 << 20;
constexpr int kRuns = 5;  // measurements whose median counts
constexpr std::size_t kPromptTokens = 50'000;
constexpr double kRatioMax = 2.3;
constexpr int kAttempts = 5;  // medians of a ratio, taken until one is within the bound

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const double begin = thread_seconds();
  const auto ids = tokenizer.encode(text, {.allow_control_tokens = true});
  const double taken = thread_seconds() - begin;
  FATHOM_CHECK(ids.is_ok(), "a text of the benchmark was refused");
  return taken;
}

double median(std::array<double, kRuns> values) {
  std::sort(values.begin(), values.end());
  return values[kRuns / 2];
}

double median_seconds(const Tokenizer& tokenizer, const std::string& text) {
  std::array<double, kRuns> runs{};
  for (double& seconds : runs) seconds = seconds_to_encode(tokenizer, text);
  return median(runs);
}

struct Growth {
  double seconds;  // of n
  double ratio;
  int attempts;
};

Growth measure_growth(const Tokenizer& tokenizer, const HostilePattern& pattern) {
  const std::string once = pattern.make(kHostileBytes), twice = pattern.make(2 * kHostileBytes);
  Growth best{0, 1e9, 0};
  while (best.attempts < kAttempts && best.ratio > kRatioMax) {
    std::array<double, kRuns> seconds{}, ratios{};
    for (int i = 0; i < kRuns; ++i) {
      seconds[i] = seconds_to_encode(tokenizer, once);
      ratios[i] = seconds_to_encode(tokenizer, twice) / seconds[i];
    }
    ++best.attempts;
    best = {median(seconds), std::min(best.ratio, median(ratios)), best.attempts};
  }
  return best;
}

// Prose, code and Chinese in random order: the first three pools of the generator.
std::string generated_text() {
  const StringGenerator generator;
  GoldenRandom random(1);
  std::string text;
  while (text.size() < kPlainBytes) {
    const std::vector<std::string>& pool = generator.pools()[random.below(3)];
    text += pool[random.below(pool.size())];
  }
  return text;
}

// The beginning of the text that a prompt of 50,000 tokens has: what a cached prompt costs here.
void report_prompt(const Tokenizer& tokenizer, const std::string& plain) {
  std::vector<TokenId> ids = tokenizer.encode(plain).value();
  if (ids.size() < kPromptTokens) return;
  ids.resize(kPromptTokens);
  const std::string prompt = tokenizer.decode(ids);
  std::printf("  %zu tokens (%zu bytes): %.2f ms\n", ids.size(), prompt.size(),
              1e3 * median_seconds(tokenizer, prompt));
}

void report(const std::string& name, const Tokenizer& tokenizer, const std::string& plain) {
  const double seconds = median_seconds(tokenizer, plain);
  std::printf("%s: plain text %.1f MB/s (%zu bytes, median of %d)\n", name.c_str(),
              static_cast<double>(plain.size()) / seconds / 1e6, plain.size(), kRuns);
  report_prompt(tokenizer, plain);
  double worst = 0;
  for (const HostilePattern& pattern : hostile_patterns()) {
    const Growth growth = measure_growth(tokenizer, pattern);
    worst = std::max(worst, growth.ratio);
    std::printf("  %-36s %8.1f MB/s  time(2n)/time(n) %.2f (attempt %d)\n", pattern.name.c_str(),
                kHostileBytes / growth.seconds / 1e6, growth.ratio, growth.attempts);
  }
  std::printf("  worst time(2n)/time(n) %.2f\n", worst);
}

int run(const std::string& folder, const char* file) {
  std::string plain;
  if (file != nullptr) {
    Result<std::string> text = read_file(file, std::size_t{1} << 30);
    if (!text.is_ok()) {
      std::fprintf(stderr, "text_bench: %s\n", text.status().to_string().c_str());
      return 1;
    }
    plain = std::move(text).value();
  } else {
    plain = generated_text();
  }
  for (const char* name : {"deepseek_v3", "qwen3", "llama3_1"}) {
    const auto files = ::fathom::testing::read_real_tokenizer(folder, name);
    if (!files.is_ok()) {
      std::fprintf(stderr, "text_bench: %s\n", files.status().to_string().c_str());
      return 1;
    }
    report(name, *Tokenizer::parse(*files).value(), plain);
  }
  return 0;
}

}  // namespace
}  // namespace fathom::text

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: text_bench FOLDER [TEXT_FILE]\n");
    return 2;
  }
  return fathom::text::run(argv[1], argc > 2 ? argv[2] : nullptr);
}
