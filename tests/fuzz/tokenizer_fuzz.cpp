// tokenizer.json: any bytes are refused, or make a tokenizer that encodes short and long pieces,
// and decodes what it encoded to UTF-8.
#include <string>

#include "fathom/check.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fathom::text::TokenizerFiles files;
  files.tokenizer_json.assign(reinterpret_cast<const char*>(data), size);
  auto tokenizer = fathom::text::Tokenizer::parse(files);
  if (!tokenizer.is_ok()) return 0;
  std::string long_word;  // of five letters in an uneven order
  for (int i = 0; i < 500; ++i) long_word += static_cast<char>('a' + (i * i + i / 7) % 5);
  for (const std::string& text : {std::string("hello  world 12\n"), std::string(200, 'a'),
                                  std::string("\xc3\xbc\xe4\xbd\xa0 <bos>"), long_word}) {
    auto ids = tokenizer.value()->encode(text);
    if (!ids.is_ok()) continue;
    FATHOM_CHECK(fathom::text::is_valid_utf8(tokenizer.value()->decode(ids.value())),
                 "decoded text is not UTF-8");
  }
  return 0;
}
