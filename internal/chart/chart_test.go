package chart

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSVG(t *testing.T) {
	t.Parallel()
	svg := Chart{Title: "a < b & c", X: "s", Y: "MB", Lines: []Line{
		{Name: "one", X: []float64{0, 1, 2}, Y: []float64{5, 7, 6}}, {Name: "none"},
	}}.SVG()
	points := 0
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			points++
		}
	}
	assert.Equal(t, 2, points)
	assert.Contains(t, svg, "a &lt; b &amp; c")
	assert.NotContains(t, Chart{}.SVG(), "NaN", "nothing to show")
}

func TestStep(t *testing.T) {
	t.Parallel()
	for most := 0.001; most < 1e7; most *= 1.07 {
		n := most / step(most)
		assert.True(t, n >= 3.9 && n <= 10.0001, "%g: %g", most, n)
		assert.False(t, math.IsNaN(n))
	}
}
