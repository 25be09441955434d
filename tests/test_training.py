"""The training loop is Algorithm 1, whoever runs it: a plain loop, one process, two processes, another precision."""

from __future__ import annotations

import ctypes
import json
import math
import platform
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from stopping import assert_trained_alike
from tiny import python, refused, tiny_config, tiny_data
from torch.testing import assert_close

from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.diffusion import q_sample
from ddpm_lib.errors import ConfigError, TrainingError
from ddpm_lib.run_files import STATE, read_log
from ddpm_lib.runs import fit
from ddpm_lib.schedules import make_schedule
from ddpm_lib.training import (
    TrainingState,
    choose_precision,
    draw_batch,
    epoch_order,
    keep_freed_memory,
    learning_rate,
    new_state,
    steps_per_epoch,
    train,
)
from ddpm_lib.unet import UNet

DATA = tiny_data()


def trained(config: Config, data: Split = DATA, until: int | None = None) -> tuple[TrainingState, list]:
    state = new_state(config, len(data.images))
    return state, list(train(state, data, until))


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def moved(model: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference between two networks' weights."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


# --- the loop


@pytest.mark.parametrize(
    "changes",
    [{}, {"conditional": True, "drop_probability": 0.5}, {"lr_schedule": "one_cycle", "schedule": "cosine"}],
    ids=["basic", "conditional", "one cycle"],
)
def test_plain_loop_gives_the_same_weights(changes):
    config = tiny_config(**changes)
    schedule = make_schedule(config)
    torch.manual_seed(config.seed)
    model = UNet(num_classes=10 if config.conditional else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    losses = []
    for step in range(4):
        optimizer.param_groups[0]["lr"] = learning_rate(config, step, 4)
        batch = draw_batch(config, DATA, step)
        x_t = q_sample(batch.x_0, batch.t, batch.eps, schedule)
        loss = F.mse_loss(model(x_t, batch.t, batch.y, batch.drop), batch.eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    state, reports = trained(config)
    assert_same_weights(state.raw_model, model)
    assert [report.loss for report in reports] == losses


def test_loss_falls():
    _, reports = trained(tiny_config(epochs=10.0, lr=2e-3))
    losses = [report.loss for report in reports]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_a_report_tells_step_epoch_rate_and_speed():
    config = tiny_config(lr_schedule="one_cycle", epochs=0.75)
    _, reports = trained(config)
    assert [report.step for report in reports] == [1, 2, 3]
    assert [report.epoch for report in reports] == [0.25, 0.5, 0.75]
    assert [report.lr for report in reports] == [learning_rate(config, step, 3) for step in range(3)]
    assert all(report.images_per_second > 0 for report in reports)


def test_same_seed_same_weights_another_seed_others():
    config = tiny_config(epochs=0.5)
    (first, _), (same, _), (other, _) = (trained(config.replace(seed=seed)) for seed in (3, 3, 4))
    assert_same_weights(first.raw_model, same.raw_model)
    assert moved(first.raw_model, other.raw_model) > 1e-3


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trained(tiny_config(epochs=0.25, conditional=True))
    assert torch.equal(torch.rand(3), expected)


def test_stopping_between_steps_changes_nothing():
    straight, _ = trained(tiny_config())
    paused, first = trained(tiny_config(), until=1)
    assert [report.step for report in first] == [1]
    assert paused.step == 1
    list(train(paused, DATA, until=3))
    list(train(paused, DATA))
    assert list(train(paused, DATA)) == []
    assert_same_weights(paused.raw_model, straight.raw_model)


def test_the_average_follows_the_weights():
    config = tiny_config(ema_beta=0.5, ema_start=1, epochs=0.5, power_emas=True)
    one, _ = trained(config, until=1)
    first = {name: value.clone() for name, value in one.raw_model.state_dict().items()}
    assert_same_weights(one.averages["ema"].model, one.raw_model)  # until the start it is a copy
    list(train(one, DATA))
    assert one.averages.keys() == {"ema", "power_0.05", "power_0.10"}
    for name, value in one.averages["ema"].model.state_dict().items():
        assert_close(value, 0.5 * first[name] + 0.5 * one.raw_model.state_dict()[name])
    gamma = one.averages["power_0.05"].gamma
    for name, value in one.averages["power_0.05"].model.state_dict().items():
        share = 0.5 ** (gamma + 1)
        assert_close(value, share * first[name] + (1 - share) * one.raw_model.state_dict()[name])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_loss_stops_the_training(value):
    config = tiny_config()
    broken = int(epoch_order(16, config.seed, 0)[9])  # an image of the third step
    images = DATA.images.clone()
    images[broken] = value
    state = new_state(config, 16)
    loop = train(state, Split(images, DATA.labels))
    next(loop), next(loop)
    before = {name: tensor.clone() for name, tensor in state.raw_model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 3 \(lr 0\.001\); lower lr"):
        next(loop)
    assert state.step == 2
    for model in (state.raw_model, state.averages["ema"].model):
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    for name, tensor in state.raw_model.state_dict().items():
        assert torch.equal(tensor, before[name])


# --- what a step draws


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    config = tiny_config()
    epochs = [torch.cat([draw_batch(config, DATA, 4 * epoch + i).x_0 for i in range(4)]) for epoch in (0, 1)]
    for images in epochs:
        matches = (images[:, None] == DATA.images[None]).flatten(2).all(dim=2)
        assert matches.sum(dim=0).tolist() == matches.sum(dim=1).tolist() == [1] * 16
    assert not torch.equal(*epochs)


def test_what_is_left_over_of_an_epoch_waits_for_the_next():
    assert steps_per_epoch(16, 5) == 3
    config = tiny_config(batch_size=5, conditional=True)
    shown = torch.cat([draw_batch(config, DATA, step).y for step in range(3)])
    assert_close(shown, DATA.labels[epoch_order(16, 0, 0)[:15]])
    assert_close(draw_batch(config, DATA, 3).y, DATA.labels[epoch_order(16, 0, 1)[:5]])


def test_a_step_draws_the_same_whatever_came_before():
    config = tiny_config(conditional=True)
    late = draw_batch(config, DATA, 7)
    for step in range(7):
        draw_batch(config, DATA, step)
    again = draw_batch(config, DATA, 7)
    for name in ("x_0", "y", "t", "eps", "drop"):
        assert torch.equal(getattr(late, name), getattr(again, name))


def test_images_and_labels_stay_together():
    batch = draw_batch(tiny_config(batch_size=16, conditional=True), DATA, 0)
    for x_0, y in zip(batch.x_0, batch.y, strict=True):
        assert float(x_0[0, 5, 2 + 2 * int(y)]) == 1.0  # the bar begins where the label says
        assert float(x_0[0, 5, 1 + 2 * int(y)]) == -1.0


def test_timesteps_are_uniform_noise_is_normal_and_labels_fall_away_as_asked():
    config = tiny_config(batch_size=16, conditional=True, T=10, drop_probability=0.25)
    batches = [draw_batch(config, DATA, step) for step in range(500)]  # 8,000 samples
    t, eps = torch.cat([batch.t for batch in batches]), torch.cat([batch.eps for batch in batches])
    dropped = torch.cat([batch.drop for batch in batches])
    counts = torch.bincount(t, minlength=10)
    assert len(counts) == 10
    assert float((counts / 8000 - 0.1).abs().max()) < 4 * math.sqrt(0.1 * 0.9 / 8000)
    assert abs(float(dropped.double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 8000)
    assert abs(float(eps.mean())) < 4 / math.sqrt(eps.numel())
    assert_close(float(eps.std()), 1.0, rtol=0.005, atol=0)


def test_with_and_without_labels_the_pictures_the_times_and_the_noise_are_the_same():
    # So the variants of the report's Table 1 differ in what they teach the network, not in their luck.
    basic, conditional = (draw_batch(tiny_config(conditional=c), DATA, 2) for c in (False, True))
    for name in ("x_0", "t", "eps"):
        assert torch.equal(getattr(basic, name), getattr(conditional, name))
    assert basic.y is None
    assert basic.drop is None


# --- the learning rate


@pytest.mark.parametrize("total", [2, 3, 5, 10, 99, 100, 1872])
def test_one_cycle_is_pytorchs(total):
    config = tiny_config(lr=2e-3, lr_schedule="one_cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total)
    for step in range(total):
        assert_close(learning_rate(config, step, total), theirs.get_last_lr()[0], rtol=1e-9, atol=1e-12)
        optimizer.step()
        if step < total - 1:
            theirs.step()


def test_the_constant_rate_is_constant():
    assert {learning_rate(tiny_config(lr=2e-3), step, 50) for step in range(50)} == {2e-3}


# --- precision


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "features", "expected"),
    [
        ("AVX512", {"amx_bf16": True}, "bf16"),
        ("AVX512", {"avx512_bf16": True}, "bf16"),
        ("AVX512", {"avx512_f": True}, "fp32"),
        ("AVX2", {"amx_bf16": True, "avx512_bf16": True}, "fp32"),  # PyTorch was told not to use them
        ("DEFAULT", {}, "fp32"),
    ],
)
def test_on_a_cpu_bf16_is_chosen_where_the_hardware_multiplies_it(monkeypatch, capability, features, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_on_a_gpu_bf16_is_chosen_where_it_is_native(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choose_precision("auto", CUDA) == expected


@pytest.mark.parametrize("requested", ["fp32", "bf16"])
def test_a_requested_precision_is_used(requested):
    assert choose_precision(requested, CPU) == choose_precision(requested, CUDA) == requested


def test_fp16_is_for_cuda_alone():
    assert choose_precision("fp16", CUDA) == "fp16"
    with pytest.raises(ConfigError, match="precision is 'fp16' on the device cpu; it needs a CUDA GPU"):
        new_state(tiny_config(precision="fp16"), 16)


def test_a_cpu_held_to_avx2_trains_in_float32():
    script = "import torch, ddpm_lib.training as t; print(t.choose_precision('auto', torch.device('cpu')))"
    output, errors = python(script, ATEN_CPU_CAPABILITY="avx2").communicate(timeout=120)
    assert output == "fp32\n", errors


def test_mixed_precision_agrees_with_float32_in_loss():
    config = tiny_config(batch_size=2, epochs=50 / 8, conditional=True)
    losses = {}
    for precision in ("fp32", "bf16"):  # one after the other in one process, as in a notebook
        state, reports = trained(config.replace(precision=precision))
        assert state.accelerator.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]
        assert {parameter.dtype for parameter in state.raw_model.parameters()} == {torch.float32}
        losses[precision] = torch.tensor([report.loss for report in reports])
    assert len(losses["fp32"]) == 50
    # bf16 keeps 8 bits, 0.4 %; the two trainings drift apart slowly.
    assert_close(losses["bf16"][0], losses["fp32"][0], rtol=0.01, atol=0)
    assert_close(losses["bf16"], losses["fp32"], rtol=0.2, atol=0)
    assert_close(losses["bf16"].mean(), losses["fp32"].mean(), rtol=0.02, atol=0)


# --- memory


def test_freed_memory_is_used_again_without_asking_the_system():
    glibc = platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() is glibc
    if glibc:
        import resource  # not on Windows

        def page_faults() -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):
                torch.ones(2**24)  # 64 MB, 16,384 pages, freed at once
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        page_faults()
        assert page_faults() < 1000


@pytest.mark.parametrize("problem", [OSError, TypeError], ids=["no libc", "Windows"])
def test_without_a_c_library_memory_is_left_as_it_is(monkeypatch, problem):
    def refuse(_: object) -> None:
        raise problem

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # musl and macOS: no mallopt
    assert keep_freed_memory() is False
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 0))  # it knows no such setting
    assert keep_freed_memory() is False


# --- several processes


TWO_PROCESSES = """if True:
    import json, sys
    from tiny import tiny_config, tiny_data
    from ddpm_lib import training
    from ddpm_lib.config import config_from_dict
    from ddpm_lib.errors import ConfigError
    from ddpm_lib.runs import fit

    def counted(model, x_0, *rest, loss=training.denoising_loss):
        print(len(x_0), "images")
        return loss(model, x_0, *rest)

    training.denoising_loss = counted
    fit(config_from_dict(json.loads(sys.argv[1])), tiny_data(), sys.argv[2], progress=False)
    try:
        training.new_state(tiny_config(batch_size=3), 16)
    except ConfigError as error:
        print(error)
    """


def test_two_processes_give_the_weights_of_one(tmp_path):
    # With a batch of four, each process takes two images; the drop mask gives them different shares of labels.
    config = tiny_config(epochs=0.5, lr=1e-4, conditional=True, drop_probability=0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        python(TWO_PROCESSES, json.dumps(config.to_dict()), tmp_path / "two", RANK=rank, LOCAL_RANK=rank, **rendezvous)
        for rank in ("0", "1")
    ]
    fit(config, DATA, tmp_path / "one", progress=False)
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.splitlines() == [
            "2 images",
            "2 images",
            "batch_size is 3, shared by 2 processes; it must be a multiple",
        ]

    (one, one_metadata), (two, two_metadata) = (load_tensors(tmp_path / name / STATE) for name in ("one", "two"))
    assert two_metadata == one_metadata
    # The optimiser's exp_avg is 0.09 of the first step's gradient and 0.1 of the second's: so gradients agree as well.
    assert_trained_alike(two, one, config.lr)
    moments = [name for name in one if name.endswith("exp_avg")]
    assert max(float(one[name].abs().max()) for name in moments) > 0.01
    losses = [[report.loss for report in read_log(tmp_path / name)] for name in ("one", "two")]
    assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    assert len(json.loads((tmp_path / "two" / "log.jsonl").read_text().splitlines()[0])) == 5


# --- bad input


CONDITIONAL = tiny_config(conditional=True)
LARGER = Split(torch.zeros(16, 1, 32, 32), DATA.labels)
BYTES = Split(DATA.images.byte(), DATA.labels)
OTHER_LABELS = Split(DATA.images, DATA.labels + 5)
BAD = {
    "a batch beyond the data": (lambda: new_state(tiny_config(batch_size=32), 16), ["batch_size is 32", "16 images"]),
    "no images": (lambda: steps_per_epoch(0, 4), ["batch_size is 4", "0 images"]),
    "until beyond the end": (lambda: trained(tiny_config(), until=5), ["until is 5", "4 steps"]),
    "labels of another data set": (lambda: trained(CONDITIONAL, OTHER_LABELS), ["label 1", "0 … 9"]),
    "images of another size": (lambda: trained(tiny_config(), LARGER), ["[4, 1, 32, 32]", "[B, 1, 28, 28]"]),
    "images in bytes": (lambda: trained(tiny_config(), BYTES), ["torch.uint8", "[-1, 1]"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
