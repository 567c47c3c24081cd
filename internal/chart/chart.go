// Package chart draws lines over time, or over whatever else there is a number of, as SVG that every browser and every
// forge shows, on a light page and on a dark one.
package chart

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Chart is one picture. Both axes begin at 0.
type Chart struct {
	Title string
	X, Y  string // what the axes are, with their units
	Lines []Line
}

// Line is a series of values with a name, in the order of X.
type Line struct {
	Name string
	X, Y []float64
}

const (
	width, height            = 720.0, 360.0
	left, right, top, bottom = 64.0, 16.0, 40.0, 64.0
)

// Of colours that those who see few of them can tell apart (Okabe and Ito's).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// SVG returns the picture. The same chart makes the same text.
func (c Chart) SVG() string {
	maxX, maxY := 0.0, 0.0
	for _, l := range c.Lines {
		for i := range l.X {
			maxX, maxY = math.Max(maxX, l.X[i]), math.Max(maxY, l.Y[i])
		}
	}
	stepX, stepY := step(maxX), step(maxY)
	maxX, maxY = math.Max(maxX, stepX), stepY*math.Ceil(math.Max(maxY, stepY)/stepY)
	px := func(x float64) float64 { return left + x/maxX*(width-left-right) }
	py := func(y float64) float64 { return height - bottom - y/maxY*(height-top-bottom) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12" fill="#888">`+"\n", width, height)
	text := func(x, y float64, anchor, attributes, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, attributes, html.EscapeString(s))
	}
	text(left, 20, "start", ` font-size="15"`, c.Title)
	text(left-8, top-6, "end", "", c.Y)
	text(width-right, height-bottom+32, "end", "", c.X)
	for y := 0.0; y <= maxY*1.0001; y += stepY {
		fmt.Fprintf(&b, `<path d="M%g %.1fH%g" stroke="#888" stroke-opacity="0.3"/>`+"\n", left, py(y), width-right)
		text(left-8, py(y)+4, "end", "", fmt.Sprintf("%.6g", y))
	}
	for x := 0.0; x <= maxX*1.0001; x += stepX {
		text(px(x), height-bottom+16, "middle", "", fmt.Sprintf("%.6g", x))
	}
	at := left
	for i, l := range c.Lines {
		colour := colours[i%len(colours)]
		b.WriteString(`<polyline fill="none" stroke-width="1.5" stroke="` + colour + `" points="`)
		for k := range l.X {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(l.X[k]), py(l.Y[k]))
		}
		b.WriteString("\"/>\n")
		fmt.Fprintf(&b, `<rect x="%.1f" y="%g" width="12" height="4" fill="%s"/>`+"\n", at, height-14, colour)
		text(at+18, height-8, "start", "", l.Name)
		at += 34 + 6.5*float64(len([]rune(l.Name)))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// step returns a round distance of which there are four to ten up to most.
func step(most float64) float64 {
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, part := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if most/(unit*part) <= 10 {
			return unit * part
		}
	}
	return unit
}
