// Tokenizing speed: MB/s of one core on plain text, and time(2n)/time(n) on hostile inputs. Times
// are of the thread's processor, so that other programs of the machine disturb them less.
//
//   text_bench FOLDER [TEXT_FILE]
//
// FOLDER holds deepseek_v3, qwen3 and llama3_1 as ../shared/tokenizers does. TEXT_FILE is the plain
// text; without it the generator of the tests makes 8 MB of prose, code and Chinese.
#include <algorithm>
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
constexpr int kRuns = 5;

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

double median_seconds(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<double> runs;
  for (int i = 0; i < kRuns; ++i) runs.push_back(seconds_to_encode(tokenizer, text));
  std::sort(runs.begin(), runs.end());
  return runs[kRuns / 2];
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

void report(const std::string& name, const Tokenizer& tokenizer, const std::string& plain) {
  const double seconds = median_seconds(tokenizer, plain);
  std::printf("%s: plain text %.1f MB/s (%zu bytes, median of %d)\n", name.c_str(),
              static_cast<double>(plain.size()) / seconds / 1e6, plain.size(), kRuns);
  double worst = 0;
  for (const HostilePattern& pattern : hostile_patterns()) {
    const double once = median_seconds(tokenizer, pattern.make(kHostileBytes));
    const double twice = median_seconds(tokenizer, pattern.make(2 * kHostileBytes));
    worst = std::max(worst, twice / once);
    std::printf("  %-36s %8.1f MB/s  time(2n)/time(n) %.2f\n", pattern.name.c_str(),
                kHostileBytes / once / 1e6, twice / once);
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
