// See test_pki.h.
#include "test_pki.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

namespace fathom::net {

namespace {

void add_extension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  EXPECT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

X509* blank(const std::string& name, EVP_PKEY* key, long serial, long from_s, long to_s) {
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), from_s);
  X509_gmtime_adj(X509_getm_notAfter(certificate), to_s);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

TestCertificate::TestCertificate(const std::string& path_stem, EVP_PKEY* owned_key, X509* owned)
    : cert_file(path_stem + ".crt"),
      key_file(path_stem + ".key"),
      key(owned_key),
      certificate(owned) {
  FILE* file = std::fopen(cert_file.c_str(), "w");
  PEM_write_X509(file, certificate);
  std::fclose(file);
  file = std::fopen(key_file.c_str(), "w");
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
}

TestCertificate::TestCertificate(TestCertificate&& other) noexcept
    : cert_file(std::move(other.cert_file)),
      key_file(std::move(other.key_file)),
      key(std::exchange(other.key, nullptr)),
      certificate(std::exchange(other.certificate, nullptr)) {}

TestCertificate::~TestCertificate() {
  EVP_PKEY_free(key);
  X509_free(certificate);
}

TestPki::TestPki() {
  std::string path = testing::TempDir() + "fathom_pki_XXXXXX";
  EXPECT_NE(::mkdtemp(path.data()), nullptr);
  directory_ = path + "/";
}

TestPki::~TestPki() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

TestCertificate TestPki::authority(const std::string& name) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = blank(name, key, serial_++, -3600, 3600);
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  add_extension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
  add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  EXPECT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  return {directory_ + name, key, certificate};
}

TestCertificate TestPki::leaf(const TestCertificate& issuer, const std::string& name,
                              const LeafOptions& options) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = blank(name, key, serial_++, options.valid_from_s, options.valid_to_s);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer.certificate));
  add_extension(certificate, issuer.certificate, NID_basic_constraints, "critical,CA:FALSE");
  add_extension(certificate, issuer.certificate, NID_ext_key_usage, options.usage);
  if (!options.san.empty()) {
    add_extension(certificate, issuer.certificate, NID_subject_alt_name, options.san);
  }
  EXPECT_GT(X509_sign(certificate, issuer.key, EVP_sha256()), 0);
  return {directory_ + name, key, certificate};
}

std::string TestPki::file(const std::string& name, const std::string& text) {
  std::ofstream(directory_ + name) << text;
  return directory_ + name;
}

std::string TestPki::encrypted_key(const TestCertificate& certificate) {
  const std::string path = directory_ + "encrypted.key";
  FILE* file = std::fopen(path.c_str(), "w");
  char passphrase[] = "secret";
  PEM_write_PrivateKey(file, certificate.key, EVP_aes_256_cbc(), nullptr, 0, nullptr, passphrase);
  std::fclose(file);
  return path;
}

}  // namespace fathom::net
