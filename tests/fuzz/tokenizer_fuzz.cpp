// tokenizer.json: any bytes are refused, or make a tokenizer that decodes what it encodes.
#include <string>
#include <string_view>

#include "fathom/check.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fathom::text::TokenizerFiles files;
  files.tokenizer_json.assign(reinterpret_cast<const char*>(data), size);
  auto tokenizer = fathom::text::Tokenizer::parse(files);
  if (!tokenizer.is_ok()) return 0;
  for (std::string_view text : {"hello  world 12\n", "\xc3\xbc\xe4\xbd\xa0 <bos>"}) {
    auto ids = tokenizer.value()->encode(text);
    if (!ids.is_ok()) continue;
    FATHOM_CHECK(fathom::text::is_valid_utf8(tokenizer.value()->decode(ids.value())),
                 "decoded text is not UTF-8");
  }
  return 0;
}
