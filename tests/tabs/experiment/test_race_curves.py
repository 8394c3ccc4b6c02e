"""The curves of a race: from the untouched model's loss to each candidate's last reading."""

from __future__ import annotations

from ftlab.methods.registry import look_of
from ftlab.race.standings import RaceView, Standing
from ftlab.tabs.experiment.race_curves import curves_html


def view(*standings: Standing, base_loss: float | None = 4.0) -> RaceView:
    return RaceView("r", "running", standings, 0.0, 60.0, 5, 0, (), None, base_loss=base_loss)


LORA = Standing("LoRA", "lora", "in the final", ((5, 2.0), (15, 1.0)))
IA3 = Standing("IA3", "ia3", "left", ((5, 2.5),))


def test_before_the_first_reading_there_is_nothing() -> None:
    assert curves_html(view(Standing("LoRA", "lora"))) == ""


def test_each_line_starts_at_the_untouched_model_and_has_its_methods_colour() -> None:
    html = curves_html(view(LORA, IA3, Standing("DoRA", "dora")))
    assert html.count("<title>") == 2
    assert f"--c:{look_of('lora').colour}" in html
    # The steps are 0 to 15 over 1000; the losses are halved twice over 100, from 4 to 1.
    assert 'd="M0 0.0L333 50.0L1000 100.0"' in html
    assert 'd="M0 0.0L333 33.9"' in html
    assert "Curves of 2 candidates; lowest at step 15: LoRA, 1.000" in html


def test_the_last_few_are_bold_and_drawn_over_those_that_left() -> None:
    html = curves_html(view(LORA, IA3))
    assert html.index('class="gone"') < html.index('class="best"')


def test_what_learnt_nothing_does_not_squeeze_the_others() -> None:
    diverged = Standing("rsLoRA", "rslora", "left", ((5, 900.0),))
    assert "<small>4.00</small><small>1.00</small>" in curves_html(view(LORA, diverged))


def test_without_the_untouched_models_loss_the_lines_start_at_the_first_rung() -> None:
    html = curves_html(view(LORA, base_loss=None))
    assert 'd="M333 0.0L1000 100.0"' in html
    assert "untouched" not in html


def test_a_label_is_escaped() -> None:
    assert "&lt;b&gt;" in curves_html(view(Standing("<b>", "lora", losses=((5, 2.0),))))


def test_a_loss_of_zero_is_drawn_at_the_bottom() -> None:
    html = curves_html(view(Standing("LoRA", "lora", losses=((5, 0.0),))))
    assert 'd="M0 0.0L1000 100.0"' in html
