"""The page in a real browser."""

import json
import shutil

import pytest

from lds.report import write_report
from tests.report import samples

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (BINARY and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)

PICTURES = """return [...document.querySelectorAll("svg, img")].map(
    (e) => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])"""
WIDTHS = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]"
COLOURS = """return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
    getComputedStyle(document.querySelector("svg text")).fill]"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    run = samples.run_folder(root / "run", count=12, weight_decay=0.001, inner_lr=0.0123, learn_inner_lr=True)
    samples.predictions(run)
    folders = [run, samples.sweep_folder(root / "sweep"), samples.ablation_folder(root / "ablation")]
    return write_report(folders, root / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def look(browser, page, *, width=1280, scheme="light"):
    """Open the page at a width; return the addresses that the browser asked for."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(page.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong_and_nothing_is_fetched(browser, page, scheme):
    asked = look(browser, page, scheme=scheme)
    assert browser.get_log("browser") == []
    assert page.as_uri() in asked
    assert [address for address in asked if not address.startswith("data:")] == [page.as_uri()]


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_with_everything_open(browser, page, width):
    look(browser, page, width=width)
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) > 15
    assert all(w > 0.25 * min(width, 1000) and h > 100 for w, h in pictures)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    scroll, client, inner = browser.execute_script(WIDTHS)
    assert scroll <= client <= inner == width


def test_no_caption_repeats_its_summary(browser, page):
    look(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    repeated = browser.execute_script("""return [...document.querySelectorAll("details")].filter((e) =>
        [...e.querySelectorAll("caption")].some((c) => c.checkVisibility() && c.innerText == e.firstChild.innerText)
    ).length""")
    assert repeated == 0


def luminance(colour):
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_light_and_dark(browser, page):
    look(browser, page, scheme="light")
    paper, ink, drawn = map(luminance, browser.execute_script(COLOURS))
    assert paper > 0.9
    assert ink == drawn < 0.2
    look(browser, page, scheme="dark")
    paper, ink, drawn = map(luminance, browser.execute_script(COLOURS))
    assert paper < 0.15
    assert ink == drawn > 0.8


def test_lines_take_the_colours_of_the_scheme(browser, page):
    script = """return [...new Set([...document.querySelectorAll("svg [style*='--series']")].map(
        (e) => getComputedStyle(e).stroke).filter((c) => c.startsWith("rgb")))]"""
    look(browser, page, scheme="light")
    light = browser.execute_script(script)
    look(browser, page, scheme="dark")
    dark = browser.execute_script(script)
    assert len(light) == len(dark) > 3
    assert not set(light) & set(dark)


def first_point(browser):
    """Return the place in the window, and the text, of the first point of the first figure."""
    return browser.execute_script("""const figure = document.querySelector("figure[data-points]");
        figure.scrollIntoView({block: "center"});
        const [x, y, text] = JSON.parse(figure.dataset.points)[0];
        const at = new DOMPoint(x, y).matrixTransform(figure.querySelector("svg").getScreenCTM());
        return [at.x, at.y, text]""")


def test_a_pointer_on_a_point_says_its_numbers(browser, page):
    look(browser, page)
    x, y, text = first_point(browser)
    shown = "const tip = document.querySelector('.tip'); return tip.hidden ? null : tip.textContent"
    assert browser.execute_script(shown) is None
    for place, said in (((x + 2, y + 2), text), ((3, 3), None)):
        event = {"type": "mouseMoved", "x": place[0], "y": place[1]}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        assert browser.execute_script(shown) == said


def test_points_lie_on_their_marks(browser, page):
    """The centre of a mark that matplotlib drew is where the first point says that it is."""
    look(browser, page)
    x, y, _ = first_point(browser)
    marks = browser.execute_script("""const svg = document.querySelector("figure[data-points] svg");
        return [...svg.querySelectorAll("use")].map((e) => e.getBoundingClientRect()).map(
            (r) => [r.x + r.width / 2, r.y + r.height / 2])""")
    assert min(abs(x - a) + abs(y - b) for a, b in marks) < 1.5


def test_zoom(browser, page):
    look(browser, page)
    figure = browser.find_element("css selector", "figure[data-points]")
    box = figure.find_element("css selector", "svg")
    whole = box.get_dom_attribute("viewBox")
    closer, _, back = figure.find_elements("css selector", ".zoom button")
    closer.click()
    assert float(box.get_dom_attribute("viewBox").split()[2]) < 0.7 * float(whole.split()[2])
    back.click()
    assert [float(v) for v in box.get_dom_attribute("viewBox").split()] == [float(v) for v in whole.split()]


def test_the_reader_chooses_a_node(browser, page):
    look(browser, page, width=390)
    place = browser.find_element("css selector", ".explorer")
    field = place.find_element("css selector", "input")
    note = place.find_element("css selector", ".note")
    field.clear()
    field.send_keys("12\n")
    assert note.text.startswith("Node 12, class 0, ")
    assert len(place.find_elements("css selector", "circle.other")) == len(
        place.find_elements("css selector", "tbody tr")
    )
    neighbour = place.find_element("css selector", "tbody button")
    name = neighbour.text
    neighbour.click()
    assert note.text.startswith(f"Node {name}, ")
    field.clear()
    field.send_keys("none\n")
    assert note.text == "There is no node none: name one of 0 to 177."
    scroll, client, inner = browser.execute_script(WIDTHS)
    assert scroll <= client <= inner == 390
