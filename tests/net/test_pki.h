// A public key infrastructure made at test time: authorities and leaf certificates as PEM files in
// a fresh directory.
#pragma once

#include <string>
#include <vector>

struct evp_pkey_st;
struct x509_st;

namespace fathom::net {

// A certificate with its key, in memory and as files.
class TestCertificate {
 public:
  TestCertificate(const std::string& path_stem, evp_pkey_st* key, x509_st* certificate);
  TestCertificate(TestCertificate&& other) noexcept;
  ~TestCertificate();

  std::string cert_file;
  std::string key_file;
  evp_pkey_st* key = nullptr;
  x509_st* certificate = nullptr;
};

struct LeafOptions {
  std::string san = {};              // OpenSSL's notation: "URI:spiffe://a/b,DNS:c"; empty: none
  std::string usage = "clientAuth";  // extended key usage
  long valid_from_s = -3600;         // relative to now
  long valid_to_s = 3600;
};

class TestPki {
 public:
  TestPki();
  ~TestPki();

  TestCertificate authority(const std::string& name);
  TestCertificate leaf(const TestCertificate& issuer, const std::string& name,
                       const LeafOptions& options);
  // Writes `text` to a file of the directory; its path.
  std::string file(const std::string& name, const std::string& text);
  // `key` of `certificate` as an encrypted PEM file; its path.
  std::string encrypted_key(const TestCertificate& certificate);

 private:
  std::string directory_;
  long serial_ = 1;
};

}  // namespace fathom::net
