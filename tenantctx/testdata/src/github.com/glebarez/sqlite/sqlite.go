// Package sqlite stands for GORM's dialector with a driver of its own.
package sqlite
