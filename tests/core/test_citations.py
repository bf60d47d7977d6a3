import pytest

from bench.core.citations import paper_link, paper_links


@pytest.mark.parametrize(
    ("citation", "link"),
    [
        ("Livne et al., 2020 (arXiv 2003.02645)", "https://arxiv.org/abs/2003.02645"),
        ("van den Oord et al., ICML 2016 (PixelCNN, arXiv 1601.06759)", "https://arxiv.org/abs/1601.06759"),
        ("Higgins et al., ICLR 2017 (OpenReview Sy2fzU9gl)", "https://openreview.net/forum?id=Sy2fzU9gl"),
        ("Fang et al., EMNLP 2019 (ACL Anthology D19-1407).", "https://aclanthology.org/D19-1407"),
        ("Song et al., 2024 (ACL Anthology 2024.lrec-main.1250)", "https://aclanthology.org/2024.lrec-main.1250"),
        ("Hinton, 2006 (doi 10.1126/science.1127647).", "https://doi.org/10.1126/science.1127647"),
        ("two: A (arXiv 1511.06349); B (doi 10.1000/182)", "https://arxiv.org/abs/1511.06349"),
        ("He et al., ICLR 2019", ""),
        ("He et al., arXiv 2019", ""),
    ],
)
def test_paper_link_is_that_of_the_identifier(citation, link):
    assert paper_link(citation) == link


def test_paper_links_has_each_paper_once_in_order():
    text = "A (doi 10.1000/182, arXiv 1511.06349); B, arXiv 1602.02282\nA again: arXiv 1511.06349."
    assert paper_links(text) == [
        "https://doi.org/10.1000/182",
        "https://arxiv.org/abs/1511.06349",
        "https://arxiv.org/abs/1602.02282",
    ]
