package main

var scaleSuites []suite
