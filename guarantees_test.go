package tenement_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	caseID     = regexp.MustCompile(`\bid:\s+"(\w+)", name:`)
	deedName   = regexp.MustCompile(`"([a-z][a-z -]+)"`)
	namedCases = regexp.MustCompile(`conformance ((?:\w+, )*\w+)`)
	namedDeeds = regexp.MustCompile(`storm \(\*([^*]+)\*`)
	brokenTags = regexp.MustCompile("builds without `(\\w+)`")
)

// What the page of guarantees says that tests a promise is there: cases of the suite, what a storm does, and what a storm is
// shown to find. For tests see TestNamedTestsExist.
func TestGuaranteesNameWhatIsThere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/guarantees.md")
	require.NoError(t, err)
	there := map[*regexp.Regexp][]string{}
	collect := func(dir string, what *regexp.Regexp) {
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, found := range what.FindAllStringSubmatch(string(text), -1) {
				there[what] = append(there[what], found[1])
			}
			return err
		}))
	}
	collect("backend/backendtest", caseID)
	collect("storm", deedName)
	tags, err := os.ReadFile("scripts/storm-broken.sh")
	require.NoError(t, err)

	for named, what := range map[*regexp.Regexp]*regexp.Regexp{namedCases: caseID, namedDeeds: deedName} {
		found := namedArgs(named, string(page))
		require.NotEmpty(t, found)
		for _, name := range found {
			assert.True(t, slices.Contains(there[what], name), "%s is named and is not there", name)
		}
	}
	for _, tag := range namedArgs(brokenTags, string(page)) {
		assert.Contains(t, string(tags), "\n"+tag+"|")
	}
}

// namedArgs returns what is named, one by one.
func namedArgs(named *regexp.Regexp, page string) (names []string) {
	for _, found := range named.FindAllStringSubmatch(page, -1) {
		names = append(names, strings.Split(found[1], ", ")...)
	}
	return names
}
