// Package pages reads the project's documentation, for the tests that hold it to its word: what stands in a page is run,
// compiled, or compared with the code that it was taken from.
package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Block is a fenced block of a page.
type Block struct {
	Page string // the file that it is in
	Line int    // where it begins, counted from 1
	Lang string // what the fence says that it is: "go", "sh"; empty for what commands print
	File string // the file that it is: `main.go`: stands before it; empty for a part of one
	Text string
}

// At says where the block is.
func (b Block) At() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

var fence = regexp.MustCompile("(?sm)(?:^`([A-Za-z0-9_./-]+)`[^`\n]*:\n\n)?^```([a-z]*)\n(.*?)^```$")

// Blocks returns the fenced blocks of a page, in order.
func Blocks(page string) ([]Block, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, at := range fence.FindAllSubmatchIndex(text, -1) {
		group := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return string(text[at[2*i]:at[2*i+1]])
		}
		blocks = append(blocks, Block{
			Page: page, Line: 1 + strings.Count(string(text[:at[6]]), "\n"),
			Lang: group(2), File: group(1), Text: group(3),
		})
	}
	return blocks, nil
}

// WriteFiles writes the blocks that are files into a directory.
func WriteFiles(dir string, blocks []Block) error {
	for _, b := range blocks {
		if b.File == "" {
			continue
		}
		file := filepath.Join(dir, filepath.FromSlash(b.File))
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(b.Text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s#]*)(#[^)\s]*)?\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	code    = regexp.MustCompile("(?sm)^```.*?^```$")
	mark    = regexp.MustCompile(`[^\p{L}\p{N} _-]+`)
)

// DeadLinks returns the links of a page that lead to no file, or to no heading of one, each with the reason. Addresses on
// the web are not asked.
func DeadLinks(page string) ([]string, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, l := range link.FindAllStringSubmatch(code.ReplaceAllString(string(text), ""), -1) {
		target, anchor := l[1], strings.TrimPrefix(l[2], "#")
		if strings.Contains(target, ":") {
			continue
		}
		file := page
		if target != "" {
			file = filepath.Join(filepath.Dir(page), filepath.FromSlash(target))
		}
		if _, err := os.Stat(file); err != nil {
			dead = append(dead, fmt.Sprintf("%s: %s: no such file", page, target))
			continue
		}
		if anchor == "" || filepath.Ext(file) != ".md" {
			continue
		}
		if there, err := anchors(file); err != nil {
			return nil, err
		} else if !there[anchor] {
			dead = append(dead, fmt.Sprintf("%s: %s#%s: no such heading", page, target, anchor))
		}
	}
	return dead, nil
}

// anchors are what a page's headings are linked to by, as forges make them.
func anchors(page string) (map[string]bool, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(code.ReplaceAllString(string(text), ""), -1) {
		found[strings.ReplaceAll(mark.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return found, nil
}
