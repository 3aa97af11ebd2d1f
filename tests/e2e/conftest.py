"""One daemon in plaintext and one with mTLS, shared by all tests that do not end theirs."""
import pathlib
import sys

import httpx
import openai
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pki import make_pki  # noqa: E402
from server import Fathomd  # noqa: E402


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session", params=["plaintext", "mtls"])
def daemon(request, pki):
    """Every test that takes it runs twice: once over each transport."""
    mtls = request.param == "mtls"
    with Fathomd(*(pki.flags() if mtls else [])) as running:
        running.tls = pki if mtls else None
        yield running


@pytest.fixture
def http(daemon):
    """An httpx client of the data listener."""
    verify = daemon.tls.context(daemon.tls.client) if daemon.tls else True
    with httpx.Client(base_url=daemon.url(), verify=verify, timeout=60) as client:
        yield client


@pytest.fixture
def client(daemon):
    """The openai client, not retrying."""
    verify = daemon.tls.context(daemon.tls.client) if daemon.tls else True
    with openai.OpenAI(base_url=daemon.url() + "/v1", api_key="none", max_retries=0, timeout=60,
                       http_client=openai.DefaultHttpxClient(verify=verify)) as made:
        yield made


@pytest.fixture
def model(client):
    return client.models.list().data[0].id
