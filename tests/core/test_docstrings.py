from bench.core.docstrings import sections


def test_sections_of_a_documentation():
    text = """iVAE: implicit posteriors,\nof text.\n
Loss:      E_q ν(x, z): a ratio
           of two.   (Fang, 2019)
Defaults:  –"""
    assert sections(text) == {
        "": "iVAE: implicit posteriors, of text.",
        "Loss": "E_q ν(x, z): a ratio of two. (Fang, 2019)",
        "Defaults": "–",
    }


def test_a_summary_alone_is_its_only_section():
    assert sections("The basic VAE.") == {"": "The basic VAE."}
