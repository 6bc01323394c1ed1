"""The OpenAPI document: schemathesis asks every route for what the document allows, and finds no fault."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings


@pytest.mark.parametrize("examples", [8, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of schemathesis
def test_schemathesis_finds_no_fault(run_server, dataset, examples, tmp_path):
    import schemathesis  # here: it takes seconds, and every process collects this file
    from schemathesis.checks import content_type_conformance, not_a_server_error, status_code_conformance

    checks = (not_a_server_error, status_code_conformance, content_type_conformance)
    own = Path(shutil.copytree(dataset.heads, tmp_path / "heads"))  # it trains heads and corrects labels
    server = run_server(own, cache=Path(shutil.copy(dataset.cache, tmp_path)))
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked = set()

    def ask(case):
        response = case.call(base_url=server.url)
        asked.add((case.method, case.path))
        case.validate_response(response, checks=checks)

    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in schema.get_all_operations():
        limits(given(case=operation.ok().as_strategy())(ask))()
    document = server.client.get("/openapi.json").json()
    assert asked == {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert server.client.get("/v2/health/live").status_code == 200
