"""Throw-away certificates, made with the openssl program: a CA, the server's, a client's, and a
client's of a foreign CA."""
import dataclasses
import pathlib
import ssl
import subprocess

CLIENT_URI = "spiffe://example.org/tests/client"


@dataclasses.dataclass
class Pair:
    cert: pathlib.Path
    key: pathlib.Path


@dataclasses.dataclass
class Pki:
    ca: Pair
    server: Pair
    client: Pair
    foreign: Pair

    def flags(self):
        return [f"--tls-cert={self.server.cert}", f"--tls-key={self.server.key}",
                f"--tls-client-ca={self.ca.cert}"]

    def context(self, client=None):
        """A client's TLS context; `client` is the Pair that it presents."""
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def _authority(folder, name):
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", pair.key, "-out",
             pair.cert)
    return pair


def _leaf(folder, name, authority, san, usage):
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={san}\nextendedKeyUsage={usage}\n"
                          "keyUsage=critical,digitalSignature\n")
    _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
             f"/CN={name}", "-keyout", pair.key, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", authority.cert, "-CAkey", authority.key,
             "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", pair.cert)
    return pair


def make_pki(folder):
    folder = pathlib.Path(folder)
    ca = _authority(folder, "ca")
    stranger = _authority(folder, "stranger")
    return Pki(ca, _leaf(folder, "server", ca, "DNS:localhost,IP:127.0.0.1", "serverAuth"),
               _leaf(folder, "client", ca, f"URI:{CLIENT_URI}", "clientAuth"),
               _leaf(folder, "foreign", stranger, f"URI:{CLIENT_URI}", "clientAuth"))
