"""Who gets no answer: TLS 1.2, no client certificate, a stranger's; and API keys."""
import hashlib
import hmac
import secrets
import socket
import ssl

import grpc
import httpx
import pytest

from pki import CLIENT_URI
from server import Fathomd, raw_exchange

REQUEST = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
LIST_MODELS = "/fathom.v1.Inference/ListModels"


@pytest.fixture(scope="module")
def secure(pki):
    with Fathomd(*pki.flags()) as running:
        running.tls = pki
        yield running


def list_models(daemon, credentials, metadata=()):
    """The raw answer of the unary call ListModels, as bytes."""
    target = f"localhost:{daemon.ports['grpc']}"
    channel = (grpc.secure_channel(target, credentials) if credentials else
               grpc.insecure_channel(target))
    with channel:
        return channel.unary_unary(LIST_MODELS)(b"", timeout=5, metadata=metadata)


def credentials(pki, client=None):
    return grpc.ssl_channel_credentials(
        pki.ca.cert.read_bytes(), client and client.key.read_bytes(),
        client and client.cert.read_bytes())


def test_the_client_is_served_and_named(secure, pki):
    answer = raw_exchange(secure.ports["http"], REQUEST, pki.context(pki.client))
    assert answer.startswith(b"HTTP/1.1 200")
    with httpx.Client(verify=pki.context(pki.client), base_url=secure.url()) as client:
        client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1},
                    headers={"x-request-id": "named"})
    entry = secure.entry_of("request", "named")
    assert CLIENT_URI in entry["certificate"] and CLIENT_URI in entry["identity"]
    assert list_models(secure, credentials(pki, pki.client))


@pytest.mark.parametrize("who", ["nobody", "foreign"])
def test_other_clients_get_no_answer(secure, pki, who):
    pair = pki.foreign if who == "foreign" else None
    try:
        answer = raw_exchange(secure.ports["http"], REQUEST, pki.context(pair))
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b""
    with pytest.raises(grpc.RpcError) as caught:
        list_models(secure, credentials(pki, pair))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_plaintext_gets_no_answer(secure):
    for listener in ("http", "grpc"):
        try:
            answer = raw_exchange(secure.ports[listener], REQUEST)
        except ConnectionError:
            answer = b""
        assert b"HTTP/1" not in answer and b"data" not in answer
    with pytest.raises(grpc.RpcError):
        list_models(secure, None)


@pytest.mark.parametrize("listener", ["http", "grpc"])
def test_tls_versions(secure, pki, listener):
    def handshake(version):
        context = pki.context(pki.client)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2" if listener == "grpc" else "http/1.1"])
        with socket.create_connection(("localhost", secure.ports[listener]), 5) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as stream:
                return stream.version()
    assert handshake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(ssl.TLSVersion.TLSv1_2)


def key_line(name, key):
    """A line of the key file: name, salt, HMAC-SHA-256 of the key under the salt."""
    salt = secrets.token_bytes(16)
    return f"{name}:{salt.hex()}:{hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()}\n"


def test_api_keys(tmp_path):
    key = "fathom-" + secrets.token_urlsafe(32)
    file = tmp_path / "keys"
    file.write_text("# ours\n" + key_line("alice", key) + key_line("bob", "another"))
    body = {"prompt": "a", "max_tokens": 1}
    with Fathomd(f"--api-key-file={file}") as daemon:
        with httpx.Client(base_url=daemon.url()) as client:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
                for path in ("/v1/models", "/version", "/openapi.json"):
                    answer = client.get(path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.json()["error"]["code"] == "invalid_api_key"
                    assert answer.headers["www-authenticate"] == "Bearer"
                assert client.post("/v1/completions", json=body, headers=headers).status_code == 401
            for path in ("/health", "/health/live", "/health/ready"):
                assert client.get(path).status_code == 200
            good = {"authorization": f"Bearer {key}", "x-request-id": "with-key"}
            assert client.get("/v1/models", headers=good).status_code == 200
            assert client.post("/v1/completions", json=body, headers=good).status_code == 200
            assert client.get("/v1/models", headers={"x-api-key": key}).status_code == 200
        entry = daemon.entry_of("request", "with-key")
        assert entry["identity"] == "alice"
        assert key not in "\n".join(daemon.lines)
        with pytest.raises(grpc.RpcError) as caught:
            list_models(daemon, None)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert list_models(daemon, None, (("authorization", f"Bearer {key}"),))
