package integrations

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pages"
)

// What docs/integrations.md shows is what is tested here, and in httpx/frameworks, to the letter.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	blocks, err := pages.Blocks("../docs/integrations.md")
	require.NoError(t, err)
	var code strings.Builder
	for _, pattern := range []string{"*.go", "../httpx/frameworks/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			code.Write(text)
		}
	}
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		assert.Contains(t, code.String(), b.Text, b.At())
	}
}
