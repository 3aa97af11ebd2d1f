// The header parser against hand-made files: well-formed ones, and one file for each way to lie.
#include <gtest/gtest.h>

#include <cstring>

#include "test_files.h"
#include "weights/safetensors.h"

namespace fathom {
namespace {

using testing::safetensors_bytes;

Result<SafetensorsHeader> parse(const std::string& bytes) {
  return parse_safetensors_header(std::as_bytes(std::span(bytes.data(), bytes.size())),
                                  bytes.size(), "f.safetensors");
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

std::string bytes(size_t n) { return std::string(n, 'x'); }

// A one-tensor file around `entry_json`, with `data_bytes` bytes of data.
std::string file_of(const std::string& entry_json, size_t data_bytes) {
  return safetensors_bytes("{" + entry_json + "}", bytes(data_bytes));
}

TEST(SafetensorsHeader, ReadsTensorsInFileOrder) {
  const auto header = parse(safetensors_bytes(
      "{" + entry("b", "BF16", "[2,3]", "[4,16]") + R"(,"__metadata__":{"format":"pt"},)" +
          entry("a", "F32", "[]", "[0,4]") + "," + entry("empty", "I64", "[0,7]", "[16,16]") +
          "}   ",
      bytes(16)));
  ASSERT_TRUE(header.is_ok()) << header.status().to_string();
  ASSERT_EQ(header->tensors.size(), 3U);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_TRUE(header->tensors[0].shape.empty());
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header->tensors[1].begin, 4U);
  EXPECT_EQ(header->tensors[2].name, "empty");
}

TEST(SafetensorsHeader, AcceptsEveryDTypeByItsName) {
  for (const char* name : {"F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BOOL",
                           "I8", "U8", "I16", "I32", "I64", "U32", "U64"}) {
    const auto dtype = dtype_by_name(name);
    ASSERT_TRUE(dtype.is_ok()) << name;
    EXPECT_EQ(dtype_name(*dtype), name);
    const auto size = std::to_string(3 * dtype_bytes(*dtype));
    EXPECT_TRUE(parse(file_of(entry("t", name, "[3]", "[0," + size + "]"),
                              static_cast<size_t>(3 * dtype_bytes(*dtype))))
                    .is_ok())
        << name;
  }
}

TEST(SafetensorsHeader, AcceptsAnEmptyFileOfTensors) {
  EXPECT_TRUE(parse(safetensors_bytes("{}", "")).is_ok());
}

TEST(SafetensorsHeader, ReadsNoFurtherThanTheHeader) {
  const std::string whole = file_of(entry("t", "U8", "[100]", "[0,100]"), 100);
  const auto head = std::as_bytes(std::span(whole.data(), whole.size() - 100));
  EXPECT_TRUE(parse_safetensors_header(head, whole.size(), "f").is_ok());
}

struct Malformed {
  const char* what;
  std::string file;
  const char* expected;  // part of the message
};

const std::string kGood = entry("t", "F32", "[1]", "[0,4]");

std::vector<Malformed> broken_containers() {
  std::string huge(8, '\xff');
  std::string over_limit(8, '\0');
  const uint64_t limit = kSafetensorsHeaderBytesMax + 1;
  std::memcpy(over_limit.data(), &limit, 8);
  std::string over_file = file_of(kGood, 4);
  over_file[0] = static_cast<char>(over_file.size());
  return {
      {"empty file", "", "too short"},
      {"seven bytes", bytes(7), "too short"},
      {"length 2^64 - 1", huge + "{}", "at most 100000000"},
      {"length over the limit", over_limit + "{}", "at most 100000000"},
      {"length over the file", over_file, "ends inside its header"},
      {"length 0", std::string(8, '\0'), "not a JSON object"},
      {"leading space", safetensors_bytes(" {}", ""), "not a JSON object"},
      {"array", safetensors_bytes("[]", ""), "not a JSON object"},
      {"cut JSON", safetensors_bytes("{\"a\":", ""), "not valid JSON"},
      {"trailing garbage", safetensors_bytes("{}x", ""), "not valid JSON"},
      {"two objects", safetensors_bytes("{}{}", ""), "not valid JSON"},
      {"padded with NUL", safetensors_bytes(std::string("{}\0", 3), ""), "not valid JSON"},
      {"comment", safetensors_bytes("{/**/}", ""), "not valid JSON"},
      {"not UTF-8", safetensors_bytes("{\"\xff\":1}", ""), "not valid JSON"},
      {"a number that overflows", file_of(entry("t", "F32", "[1e999]", "[0,4]"), 4),
       "not valid JSON"},
  };
}

std::vector<Malformed> broken_entries() {
  return {
      {"tensor twice", file_of(kGood + "," + kGood, 4), "'t' appears twice"},
      {"metadata twice", safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", ""),
       "appears twice"},
      {"metadata key twice", safetensors_bytes(R"({"__metadata__":{"a":"","a":""}})", ""),
       "'a' twice"},
      {"metadata number", safetensors_bytes(R"({"__metadata__":{"a":1}})", ""), "a number"},
      {"metadata array", safetensors_bytes(R"({"__metadata__":[]})", ""), "an array"},
      {"metadata nested", safetensors_bytes(R"({"__metadata__":{"a":{}}})", ""), "an object"},
      {"entry is a number", safetensors_bytes(R"({"t":1})", ""), "'t' holds a number"},
      {"entry is null", safetensors_bytes(R"({"t":null})", ""), "'t' holds null"},
      {"entry is an array", safetensors_bytes(R"({"t":[]})", ""), "'t' holds an array"},
      {"entry is empty", safetensors_bytes(R"({"t":{}})", ""), "'t' has no dtype"},
      {"no shape", file_of(R"("t":{"dtype":"F32","data_offsets":[0,4]})", 4), "has no shape"},
      {"no offsets", file_of(R"("t":{"dtype":"F32","shape":[1]})", 4), "has no data_offsets"},
      {"unknown key", file_of(R"("t":{"dtype":"F32","shape":[1],"x":1})", 4), "unknown key 'x'"},
      {"dtype twice", file_of(R"("t":{"dtype":"F32","dtype":"F32"})", 4), "'dtype' twice"},
      {"shape twice", file_of(R"("t":{"shape":[1],"shape":[1]})", 4), "'shape' twice"},
      {"unknown dtype", file_of(entry("t", "F4", "[1]", "[0,4]"), 4), "unsupported dtype 'F4'"},
      {"dtype in lower case", file_of(entry("t", "f32", "[1]", "[0,4]"), 4), "unsupported dtype"},
      {"dtype is a number", file_of(R"("t":{"dtype":1})", 4), "a number"},
      {"shape is a string", file_of(R"("t":{"shape":"1"})", 4), "a string"},
      {"shape nested", file_of(entry("t", "F32", "[[1]]", "[0,4]"), 4), "an array"},
      {"offsets are an object", file_of(R"("t":{"data_offsets":{}})", 4), "an object"},
      {"deep nesting", safetensors_bytes(std::string(5000, '{'), ""), "not valid JSON"},
  };
}

std::vector<Malformed> broken_numbers() {
  return {
      {"negative dimension", file_of(entry("t", "F32", "[-1]", "[0,4]"), 4), "a negative number"},
      {"fraction", file_of(entry("t", "F32", "[1.5]", "[0,4]"), 4), "not a 64-bit integer"},
      {"dimension 2^63", file_of(entry("t", "U8", "[9223372036854775808]", "[0,4]"), 4),
       "over 2^63"},
      {"dimension 2^64", file_of(entry("t", "U8", "[18446744073709551616]", "[0,4]"), 4),
       "not a 64-bit integer"},
      {"boolean", file_of(entry("t", "F32", "[true]", "[0,4]"), 4), "a boolean"},
      {"nine dimensions", file_of(entry("t", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4),
       "more than 8 dimensions"},
      {"product overflows", file_of(entry("t", "U8", "[4294967296,4294967296]", "[0,0]"), 0),
       "overflows"},
      {"bytes overflow", file_of(entry("t", "F64", "[2305843009213693952]", "[0,0]"), 0),
       "overflows"},
      {"one offset", file_of(entry("t", "F32", "[1]", "[0]"), 4), "two data_offsets"},
      {"three offsets", file_of(entry("t", "F32", "[1]", "[0,4,8]"), 4), "two data_offsets"},
      {"no offset", file_of(entry("t", "F32", "[1]", "[]"), 4), "two data_offsets"},
      {"negative offset", file_of(entry("t", "F32", "[1]", "[-4,0]"), 4), "a negative number"},
      {"end before begin", file_of(entry("t", "F32", "[1]", "[4,0]"), 4), "ends before it begins"},
      {"too few bytes", file_of(entry("t", "F32", "[2]", "[0,4]"), 4), "need 8"},
      {"too many bytes", file_of(entry("t", "F32", "[1]", "[0,8]"), 8), "need 4"},
      {"hole at the start", file_of(entry("t", "F32", "[1]", "[4,8]"), 8), "a hole"},
      {"hole in the middle", file_of(kGood + "," + entry("u", "F32", "[1]", "[8,12]"), 12),
       "'u' leaves a hole"},
      {"overlap", file_of(kGood + "," + entry("u", "F32", "[1]", "[2,6]"), 6), "'u' overlaps"},
      {"the same bytes", file_of(kGood + "," + entry("u", "F32", "[1]", "[0,4]"), 4), "overlaps"},
      {"data after the end", file_of(kGood, 5), "the file at byte 5"},
      {"truncated", file_of(kGood, 3), "truncated"},
      {"data of no tensor", safetensors_bytes("{}", "x"), "the file at byte 1"},
      {"offset near 2^64",
       file_of(entry("t", "U8", "[1]", "[18446744073709551614,18446744073709551615]"), 1),
       "a hole"},
      {"empty tensor out of place", file_of(kGood + "," + entry("e", "U8", "[0]", "[9,9]"), 4),
       "'e' leaves a hole"},
  };
}

TEST(SafetensorsHeader, RefusesMalformedFilesWithASentence) {
  size_t cases = 0;
  for (const auto& table : {broken_containers(), broken_entries(), broken_numbers()}) {
    for (const Malformed& m : table) {
      const auto header = parse(m.file);
      ASSERT_FALSE(header.is_ok()) << m.what;
      const std::string message = header.status().message();
      EXPECT_NE(message.find(m.expected), std::string::npos) << m.what << ": " << message;
      EXPECT_EQ(message.rfind("f.safetensors", 0), 0U) << m.what << ": " << message;
      EXPECT_EQ(header.status().subject(), "f.safetensors") << m.what;
      ++cases;
    }
  }
  EXPECT_GE(cases, 60U);
}

TEST(SafetensorsHeader, PrintsHostileNamesSafely) {
  const auto header = parse(file_of(entry("\\u001b[31m\\n" + bytes(500), "F4", "[1]", "[0,1]"), 1));
  ASSERT_FALSE(header.is_ok());
  const std::string message = header.status().message();
  for (const char c : message) EXPECT_GE(c, ' ');
  EXPECT_LT(message.size(), 300U);
}

TEST(SafetensorsHeader, EveryPrefixOfAFileIsRefused) {
  const std::string whole = file_of(
      kGood + "," + entry("u", "BF16", "[2,2]", "[4,12]") + R"(,"__metadata__":{"a":"b"})", 12);
  ASSERT_TRUE(parse(whole).is_ok());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(parse(whole.substr(0, n)).is_ok()) << n;
}

// Every single-byte change of the header either parses to a layout that covers the data exactly or
// is refused; nothing else can happen.
TEST(SafetensorsHeader, SurvivesEverySingleByteChange) {
  const std::string whole = file_of(kGood + "," + entry("u", "BF16", "[2,2]", "[4,12]"), 12);
  for (size_t at = 0; at < whole.size() - 12; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      const auto header = parse(changed);
      if (!header.is_ok()) continue;
      uint64_t end = 0;
      for (const TensorEntry& t : header->tensors) {
        EXPECT_EQ(t.begin, end);
        end = t.end;
      }
      EXPECT_EQ(end + header->data_offset, changed.size());
    }
  }
}

}  // namespace
}  // namespace fathom
