// Package litestream copies stores.
package litestream
