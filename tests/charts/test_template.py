from ftlab.charts.template import DARK_INK, INK, figure, glyph, plain, short_name, template


def test_a_figure_is_transparent_and_in_the_one_ink_that_the_page_recolours():
    layout = figure(200).layout.template.layout
    assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("rgba(0,0,0,0)", "rgba(0,0,0,0)")
    assert layout.font.color == INK


def test_a_file_that_stands_alone_can_have_the_dark_template():
    assert template(dark=True).layout.font.color == DARK_INK


def test_text_from_a_record_reaches_plotly_without_tags_or_placeholders():
    assert plain("<b>%{x}") == "&lt;b&gt;%&#123;x}"


def test_a_name_is_short_and_cut_with_an_ellipsis():
    assert short_name("Full fine-tuning", "full") == "Full"
    assert short_name("LoRA r=4", "lora") == "LoRA r=4"
    assert short_name("LoRA targets=query and value", "lora") == "LoRA targets=qu…"


def test_a_method_that_is_no_longer_known_keeps_its_name():
    assert short_name("Old method", "old") == "Old method"


def test_a_label_wears_the_colour_of_its_method_as_a_square():
    assert glyph("lora") == '<span style="color:#2777e0">■</span>'
