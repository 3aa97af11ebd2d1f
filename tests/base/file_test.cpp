#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace fathom {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/fathom-file-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_;
};

TEST_F(FileTest, ReadsAtTheBoundAndRefusesOnePastIt) {
  ASSERT_TRUE(write_file(path("a"), "12345").is_ok());
  EXPECT_EQ(read_file(path("a"), 5).value(), "12345");
  Status status = read_file(path("a"), 4).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("5 bytes; at most 4"), std::string::npos);
}

TEST_F(FileTest, NamesThePathOfAMissingFile) {
  Status status = read_file(path("none"), 10).status();
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_EQ(status.subject(), path("none"));
}

TEST_F(FileTest, RefusesFoldersAndPipes) {
  EXPECT_EQ(read_file(folder_, 10).status().code(), Code::kInvalidArgument);
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(read_file(path("pipe"), 10).status().code(), Code::kInvalidArgument);
}

TEST_F(FileTest, WriteReplacesWholeAndLeavesNothingBeside) {
  ASSERT_TRUE(write_file(path("a"), "old and longer").is_ok());
  ASSERT_TRUE(write_file(path("a"), "new").is_ok());
  EXPECT_EQ(read_file(path("a"), 100).value(), "new");
  auto entries = std::filesystem::directory_iterator(folder_);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST_F(FileTest, MapsContentAndEmptyFiles) {
  ASSERT_TRUE(write_file(path("a"), "abc").is_ok());
  ASSERT_TRUE(write_file(path("empty"), "").is_ok());
  MappedFile first = std::move(MappedFile::open(path("a"))).value();
  MappedFile moved = std::move(first);
  ASSERT_EQ(moved.bytes().size(), 3u);
  EXPECT_EQ(static_cast<char>(moved.bytes()[2]), 'c');
  EXPECT_TRUE(MappedFile::open(path("empty")).value().bytes().empty());
}

TEST_F(FileTest, SlicesOfSeveralPiecesArriveFromSeveralThreads) {
  std::string content(size_t{20} << 20, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 2654435761u >> 24);
  ASSERT_TRUE(write_file(path("big"), content).is_ok());
  std::string head(1000, ' ');
  std::string tail(content.size() - 12345, ' ');
  std::vector<FileSlice> slices = {{7, std::as_writable_bytes(std::span(head))},
                                   {12345, std::as_writable_bytes(std::span(tail))}};
  ASSERT_TRUE(read_slices(path("big"), slices, 3).is_ok());
  EXPECT_EQ(head, content.substr(7, 1000));
  EXPECT_EQ(tail, content.substr(12345));
}

TEST_F(FileTest, ASlicePastTheEndIsDataLoss) {
  ASSERT_TRUE(write_file(path("a"), "12345").is_ok());
  std::string to(3, ' ');
  FileSlice at_end{2, std::as_writable_bytes(std::span(to))};
  FileSlice past{3, at_end.to};
  FileSlice far{~uint64_t{0}, at_end.to};
  EXPECT_TRUE(read_slices(path("a"), {&at_end, 1}, 1).is_ok());
  EXPECT_EQ(read_slices(path("a"), {&past, 1}, 1).code(), Code::kDataLoss);
  EXPECT_EQ(read_slices(path("a"), {&far, 1}, 1).code(), Code::kDataLoss);
}

TEST(UniqueFd, ClosesOnceAndMoves) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  UniqueFd read_end(pipe_fds[0]);
  {
    UniqueFd write_end(pipe_fds[1]);
    UniqueFd moved = std::move(write_end);
    EXPECT_FALSE(write_end);
    EXPECT_EQ(moved.get(), pipe_fds[1]);
  }
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0);  // end of file: the write end is closed
}

}  // namespace
}  // namespace fathom
