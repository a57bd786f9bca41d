"""What the page makes of the lines that Vega draws."""

from xml.etree import ElementTree

from timm_diffsens.results.page.svg import _put_together


def test_lines_are_put_together_at_places_that_are_rounding_of_zero_too():
    group = ElementTree.fromstring(
        '<g xmlns="http://www.w3.org/2000/svg">'
        '<line transform="translate(1.4e-14,30.25)" stroke="a" x2="12"/>'
        '<line transform="translate(7,-2e-15)" stroke="a" y2="4"/></g>'
    )
    _put_together(group)
    (path,) = group
    assert path.attrib["d"] == "M0.0,30.2h12.0M7.0,-0.0v4.0"
