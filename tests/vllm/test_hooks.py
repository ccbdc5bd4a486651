"""The hooks in a vLLM without an engine: what is installed, checked at the start, refused and marked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import affectron.vllm
from affectron.errors import InputError
from affectron.interventions import schedule
from affectron.vllm import hooks, internals
from affectron.vllm.activations import SteeredActivation
from affectron.vllm.internals import Unsupported
from tests.support.errors import message
from tests.support.tiny import build
from tests.vllm.conftest import model_config
from tests.vllm.fakes import PoolingParams, RunnerV1, SamplingParams, served
from tests.vllm.programs import program

PROMPT = {"prompt_token_ids": [1, 4, 5]}


@pytest.fixture(autouse=True)
def installed(vllm: Any) -> None:
    affectron.vllm.register()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    program(0).save(folder / "anger.safetensors")
    schedule(program(1), where="generated").save(folder / "answer.safetensors")
    return folder


@pytest.fixture
def configured(config: Any, programs: Path) -> Any:
    config.additional_config = {"affectron": {"programs": str(programs), "capacity": 4}}
    return config


class Worker:
    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config

    def init_device(self) -> None:
        self.model_runner = RunnerV1(self.vllm_config, lambda: served(build("llama")), 40, 4)


def workers(vllm: Any, vllm_config: Any, count: int = 1) -> list[Any]:
    made = [vllm.WorkerWrapperBase() for _ in range(count)]
    for worker in made:
        worker.init_worker([{"vllm_config": vllm_config, "worker": Worker}])
        worker.init_device()
        worker.model_runner.load_model()
    return made


def core(vllm: Any, vllm_config: Any) -> Any:
    return vllm.EngineCore(vllm_config, lambda given: workers(vllm, given), False)


def process(front: Any, params: Any, salt: str | None = None, **options: Any) -> Any:
    return front.process_inputs("id", {**PROMPT, "cache_salt": salt}, params, ("generate",), **options)


def steered(worker: Any) -> bool:
    return any(isinstance(module, SteeredActivation) for module in worker.model_runner.model.modules())


def test_a_request_passes_from_the_front_end_to_the_worker(vllm: Any, configured: Any, programs: Path) -> None:
    front, engine = vllm.InputProcessor(configured), core(vllm, configured)
    assert engine.kv_cache_config == "keys and values"
    request = process(front, SamplingParams({"affectron": "anger"}), "client")
    assert request.cache_salt == "client"
    passed, wave = engine.preprocess_add_request(request)
    assert (passed.prompt_token_ids, wave) == ([1, 4, 5], 0)
    file = hooks.digest((programs / "anger.safetensors").read_bytes())
    assert passed.cache_salt == f"affectron:{file}::client"
    (worker,) = engine.model_executor
    assert steered(worker)


def test_the_salt_of_a_schedule_has_the_length_of_the_prompt(vllm: Any, configured: Any) -> None:
    front, engine = vllm.InputProcessor(configured), core(vllm, configured)

    def salt(name: str | None, given: str | None = None, **prompt: Any) -> Any:
        params = SamplingParams(name and {"affectron": name})
        request = front.process_inputs("id", {**prompt, "cache_salt": given}, params, ())
        return engine.preprocess_add_request(request)[0].cache_salt

    assert salt("answer", prompt_token_ids=[3] * 8).endswith(":8:")
    assert salt("answer", prompt_embeds=[[0.5]] * 8) == salt("answer", prompt_token_ids=[3] * 8)
    assert salt("anger", prompt_token_ids=[3] * 8) == salt("anger", prompt_token_ids=[3] * 9)
    assert salt(None, prompt_token_ids=[3] * 8) is None
    # A client that writes the salt of a program reads and writes no block of it.
    imitated = salt("anger", prompt_token_ids=[3] * 8)
    assert salt(None, imitated, prompt_token_ids=[3] * 8) == f"affectron:::{imitated}"


def test_without_configuration_all_is_as_before(vllm: Any, config: Any) -> None:
    front, engine = vllm.InputProcessor(config), core(vllm, config)
    for salt in (None, "client", "affectron:x"):
        request = process(front, SamplingParams(), salt)
        assert engine.preprocess_add_request(request)[0].cache_salt == salt
    assert not steered(engine.model_executor[0])
    assert config.compute_hash() == type(config).__mro__[1].compute_hash(config)
    request = vllm.CompletionRequest(vllm_xargs={"affectron": "anger"})
    assert request.to_beam_search_params(5) == "beams"  # the engine behind it refuses the name


def test_without_configuration_a_name_is_refused(vllm: Any, config: Any) -> None:
    front, engine = vllm.InputProcessor(config), core(vllm, config)
    params = SamplingParams({"affectron": "anger"})
    with pytest.raises(vllm.VLLMValidationError) as error:
        process(front, params)
    told = "affectron is 'anger', but the server was started without programs (--additional-config)"
    assert str(error.value) == f"affectron: {told}"
    request = process(front, SamplingParams())
    request.sampling_params = params
    assert message(lambda: engine.preprocess_add_request(request)) == told


@pytest.mark.parametrize(
    ("params", "options", "told"),
    [
        (SamplingParams({"affectron": "joy"}), {}, "affectron is 'joy', expected one of anger, answer"),
        (SamplingParams({"affectron": ["anger"]}), {}, "affectron is ['anger'], expected one of anger, answer"),
        (SamplingParams({"affectron": None}), {}, "affectron is None, expected the name of a program"),
        (PoolingParams({"affectron": "anger"}), {}, "affectron is 'anger' in a pooling request"),
        (SamplingParams({"affectron": "anger"}), {"resumable": True}, "affectron is 'anger' in a request whose prompt"),
    ],
)
def test_the_front_end_and_the_engine_refuse_requests(
    params: Any, options: dict[str, Any], told: str, vllm: Any, configured: Any
) -> None:
    front = vllm.InputProcessor(configured)
    with pytest.raises(vllm.VLLMValidationError) as error:
        process(front, params, **options)
    assert str(error.value).startswith(f"affectron: {told}")
    assert error.value.parameter == "affectron"
    # Another front end.
    request = type(front).process_inputs.__wrapped__(front, "id", PROMPT, params, (), **options)
    assert message(lambda: core(vllm, configured).preprocess_add_request(request)).startswith(told)


def test_windows_are_refused_with_asynchronous_drafts(vllm: Any, configured: Any, programs: Path) -> None:
    schedule(program(2), start=3).save(programs / "late.safetensors")
    params = SamplingParams({"affectron": "late"})
    assert process(vllm.InputProcessor(configured), params).sampling_params is params
    configured.speculative_config = SimpleNamespace(enable_adaptive_verification=False)
    configured.scheduler_config.async_scheduling = True
    with pytest.raises(vllm.VLLMValidationError, match="affectron is 'late', a schedule that changes after some"):
        process(vllm.InputProcessor(configured), params)


def test_the_start_is_refused_in_one_line(vllm: Any, configured: Any, programs: Path) -> None:
    configured.kv_transfer_config = "a connector"
    told = message(lambda: vllm.InputProcessor(configured))
    assert told.startswith("kv_transfer_config is a connector, expected None with programs: ")
    configured.kv_transfer_config = None
    program(3, weights="other").save(programs / "other.safetensors")
    assert message(lambda: vllm.InputProcessor(configured)).startswith("program 'other' was made for other weights")
    configured.additional_config = {"affectron": {"programs": str(programs / "nowhere")}}
    for start in (vllm.InputProcessor, lambda given: core(vllm, given)):
        assert message(lambda start=start: start(configured)).startswith(f"programs is '{programs / 'nowhere'}', exp")
    configured.additional_config = {"affectron": str(programs)}
    assert message(configured.compute_hash).startswith(f"affectron is '{programs}' in additional_config, expected ")


def test_programs_that_come_after_the_start_are_not_served(vllm: Any, configured: Any, programs: Path) -> None:
    front, engine = vllm.InputProcessor(configured), core(vllm, configured)
    program(2).save(programs / "joy.safetensors")
    program(3).save(programs / "anger.safetensors")
    (programs / "answer.safetensors").unlink()
    with pytest.raises(vllm.VLLMValidationError, match="affectron is 'joy', expected one of anger, answer"):
        process(front, SamplingParams({"affectron": "joy"}))
    program(0).save(programs.parent / "first.safetensors")
    file = hooks.digest((programs.parent / "first.safetensors").read_bytes())
    passed, _ = engine.preprocess_add_request(process(front, SamplingParams({"affectron": "anger"})))
    assert passed.cache_salt == f"affectron:{file}::"
    process(front, SamplingParams({"affectron": "answer"}))
    # Another engine of the process reads the folder as it is.
    assert process(vllm.InputProcessor(configured), SamplingParams({"affectron": "joy"})).cache_salt is None


def test_a_folder_that_changes_during_the_start_is_refused(vllm: Any, configured: Any, programs: Path) -> None:
    def start(given: Any) -> list[Any]:
        made = workers(vllm, given)
        program(3).save(programs / "anger.safetensors")
        return made + workers(vllm, given)

    assert message(lambda: vllm.EngineCore(configured, start, False)) == (
        "programs: a worker has read other files than the engine, expected one unchanging folder"
    )


def test_engines_of_a_process_have_their_own_programs(vllm: Any, configured: Any, folders: Any, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    program(5, "gemma").save(tmp_path / "others" / "joy.safetensors")
    other = vllm.VllmConfig(
        model_config=model_config(folders["gemma"]),
        additional_config={"affectron": {"programs": str(tmp_path / "others")}},
    )
    fronts = [vllm.InputProcessor(configured), vllm.InputProcessor(other)]
    for front, name, absent in zip(fronts, ("anger", "joy"), ("joy", "anger"), strict=True):
        process(front, SamplingParams({"affectron": name}))
        with pytest.raises(vllm.VLLMValidationError, match=f"affectron is '{absent}', expected one of "):
            process(front, SamplingParams({"affectron": absent}))
    engine = core(vllm, configured)
    with pytest.raises(InputError, match="affectron is 'joy', expected one of anger, answer"):
        engine.preprocess_add_request(process(fronts[1], SamplingParams({"affectron": "joy"})))


BEAMS = {
    "CompletionRequest": (5,),
    "ChatCompletionRequest": (5, {}),
    "TranscriptionRequest": (5,),
    "TranslationRequest": (5, {}),
}
SERVING = {"ServingGenerativeScoring": "create_generative_scoring", "ServingStructuredDecisions": "create_decision"}
UNNAMED = "in a beam search, a scoring or a decision, expected a request that samples"


@pytest.mark.parametrize("kind", BEAMS)
def test_a_beam_search_with_a_program_is_refused(kind: str, vllm: Any, configured: Any) -> None:
    for _ in range(2):  # again has no effect
        vllm.InputProcessor(configured)
    request = getattr(vllm, kind)
    with pytest.raises(vllm.VLLMValidationError) as error:
        request(vllm_xargs={"affectron": "anger"}).to_beam_search_params(*BEAMS[kind])
    assert str(error.value) == f"affectron: affectron is 'anger' {UNNAMED}"
    for args in (None, {}, {"other": 1}):
        assert request(vllm_xargs=args).to_beam_search_params(*BEAMS[kind]) == "beams"


@pytest.mark.parametrize("kind", SERVING)
def test_scorings_and_decisions_with_a_program_are_refused(kind: str, vllm: Any, configured: Any) -> None:
    """Their requests may have any other field, which vLLM does not read."""
    vllm.InputProcessor(configured)
    answer = getattr(getattr(vllm, kind)(), SERVING[kind])
    for name in ("anger", None):
        with pytest.raises(vllm.VLLMValidationError) as error:
            answer(SimpleNamespace(vllm_xargs={"affectron": name}), "raw")
        assert str(error.value) == f"affectron: affectron is {name!r} {UNNAMED}"
    for request in (SimpleNamespace(), SimpleNamespace(vllm_xargs="affectron"), SimpleNamespace(vllm_xargs={})):
        assert asyncio.run(answer(raw_request="raw", request=request)) in ("scores", "decision")


def test_each_place_that_loses_the_name_is_tried() -> None:
    assert {path.rpartition(":")[2].partition(".")[0] for path in internals.FRONT_END} == {*BEAMS, *SERVING}


def test_installing_twice_is_harmless(vllm: Any, configured: Any) -> None:
    hooked = [internals.find(path) for path in internals.EVERYWHERE]
    affectron.vllm.register()
    assert [internals.find(path) for path in internals.EVERYWHERE] == hooked


def test_compiled_code_is_of_this_version_and_configuration(
    vllm: Any, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = type(configured).__mro__[1].compute_hash(configured)
    hashes = {plain, configured.compute_hash()}
    assert configured.compute_hash() in hashes
    monkeypatch.setattr(hooks, "__version__", "another")
    hashes.add(configured.compute_hash())
    assert len(hashes) == 3
    assert {len(one) for one in hashes} == {len(plain)}


def another_version(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.99.0")
    return "affectron does not know vLLM 0.99.0, expected a version "


def another_engine(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delattr(sys.modules["vllm.v1.engine.core"], "EngineCore")
    return "affectron cannot steer vLLM 0.32.0: vllm.v1.engine.core.EngineCore._initialize_kv_caches is missing ("


@pytest.mark.parametrize("change", [another_version, another_engine])
def test_an_unsupported_vllm_runs_without_configuration_alone(
    change: Callable[[pytest.MonkeyPatch], str], vllm: Any, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = change(monkeypatch)
    hooks.install.cache_clear()
    affectron.vllm.register()
    for additional in ({}, {"other": 1}, "an object of a platform"):
        assert vllm.VllmConfig(additional_config=additional).additional_config == additional
    with pytest.raises(Unsupported) as error:
        vllm.VllmConfig(additional_config=configured.additional_config)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_vllm_with_no_place_to_refuse_does_not_start(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["vllm.config"], "VllmConfig")
    hooks.install.cache_clear()
    with pytest.raises(Unsupported, match="vllm.config.VllmConfig.compute_hash is missing"):
        affectron.vllm.register()
