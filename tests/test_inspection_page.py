"""The page of a bank in a real browser: legible, whole without a network, and its controls work without scripts."""

import itertools
import re

import pytest
from chromium import CHROMIUM, open_browser

from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.bank.inspection import inspect_bank

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")

LEAST_CONTRAST = 4.5  # WCAG 2.1, 1.4.3, level AA
CARDS = "[...document.querySelectorAll('.cards')[0].children]"

# Of each piece of text: how its colour stands out from the nearest background that is not transparent.
CONTRASTS = """(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('style')) continue;
    let behind = element;
    while (behind && (channels(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const style = getComputedStyle(element);
    const ink = luminance(channels(element.closest('svg') ? style.fill : style.color));
    const paper = luminance(channels(getComputedStyle(behind).backgroundColor));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, walker.currentNode.data.trim()]);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def page_file(bank, tmp_path_factory):
    return inspect_bank(bank, tmp_path_factory.mktemp("page") / "page.html")[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser, page_file):
    browser.open(page_file)
    return browser


def test_nothing_is_complained_of_and_nothing_is_fetched(page, page_file):
    page.picture()  # so that all is decoded and painted
    assert not page.named("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    asked_for = [request["request"]["url"] for request in page.named("Network.requestWillBeSent")]
    assert [url for url in asked_for if not url.startswith("data:")] == [page_file.resolve().as_uri()]
    assert not page.named("Network.loadingFailed")


def test_the_browser_tells_of_what_would_be_fetched_or_fails(browser, tmp_path):
    """The other way round: a page with a script, an error and a picture from elsewhere is found out."""
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png'><script>throw Error('x')</script>")
    browser.open(bad)
    assert browser.named("Runtime.exceptionThrown")
    assert any("127.0.0.1" in request["request"]["url"] for request in browser.named("Network.requestWillBeSent"))


def test_all_pictures_are_there_and_told_in_words(page, bank):
    pictures = page.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth, i.alt.length])"
    )
    cards = page.evaluate("document.querySelectorAll('.card').length")
    assert len(pictures) >= 4 * cards > 4 * 24  # image and mask, of a sample and of its neighbour
    assert all(complete and min(sizes) > 0 for complete, *sizes in pictures)
    plots = page.evaluate("[...document.querySelectorAll('svg.plot')].map(p => [p.ariaLabel, p.clientWidth])")
    assert len(plots) > 10
    assert all("Synthetic" in label and width > 100 for label, width in plots)


def test_the_first_screen_says_how_many_samples_from_what_and_what_is_wrong(page, bank):
    record = BankRecord.load(bank / RECORD_FILE)
    seen = page.evaluate(
        "[...document.querySelectorAll('h1, .lead, .facts li')]"
        ".filter(e => e.getBoundingClientRect().bottom <= innerHeight).map(e => e.innerText).join(' ')"
    )
    assert f"{record.samples} synthetic pairs" in seen
    assert f"{len(record.source.training_cases)} training cases of {record.source.dataset_name}" in seen
    assert f"All {record.requested} samples that were asked for are there" in seen
    assert "SHA-256" in seen
    for name, filter_ in record.filters.items():
        assert (f"{name} ({filter_.off})" in seen) == bool(filter_.off)


def test_masks_lie_exactly_over_their_images_and_can_be_taken_off(page):
    boxes = page.evaluate(
        "[...document.querySelectorAll('.tile')].map(t => [...t.children].map(i => {"
        "const b = i.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]}))"
    )
    assert all(abs(a - b) < 0.5 for grey, mask in boxes for a, b in zip(grey, mask, strict=True))
    visibility = "[...new Set([...document.querySelectorAll('.mask')].map(m => getComputedStyle(m).visibility))]"
    assert page.evaluate(visibility) == ["visible"]
    with_masks = page.picture()
    page.evaluate("document.querySelector('#masks').click()")
    assert page.evaluate(visibility) == ["hidden"]
    page.evaluate("document.querySelector('#masks').click()")
    assert page.evaluate(visibility) == ["visible"]
    assert page.picture()[:8] == with_masks[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_gallery_shows_only_samples_with_a_class(page):
    shown = f"{CARDS}.filter(c => c.offsetParent).map(c => c.className)"
    every = page.evaluate(shown)
    filters = page.evaluate("[...document.querySelectorAll('[name=only]')].map(i => i.id)")
    assert filters[0] == "only-all"
    for choice in filters[1:]:
        page.evaluate(f"document.querySelector('#{choice}').click()")
        wanted = choice.replace("only-", "shows-")
        assert page.evaluate(shown) == [names for names in every if wanted in names.split()]
        assert 0 < len(page.evaluate(shown)) < len(every)
    page.evaluate("document.querySelector('#only-all').click()")
    assert page.evaluate(shown) == every


def test_samples_can_be_made_larger(page):
    width = f"{CARDS}[0].clientWidth"
    sizes = []
    for size in ("small", "medium", "large"):
        page.evaluate(f"document.querySelector('#{size}').click()")
        sizes.append(page.evaluate(width))
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_on_any_screen(browser, page_file, width, scheme):
    browser.open(page_file, width=width, scheme=scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = browser.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert [(round(ratio, 2), text) for ratio, text in contrasts if ratio < LEAST_CONTRAST] == []
    paper = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 3 * 128) == (scheme == "light")


def test_headings_have_an_order_and_ids_are_unique(page):
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    named_by = page.evaluate("[...document.querySelectorAll('section')].map(e => e.getAttribute('aria-labelledby'))")
    assert named_by
    assert set(named_by) <= set(ids)
