// Package browser looks at the status pages in a real browser, Chromium without a window, as people see them: at the width of a phone
// and of a desk, dark and light, with scripts switched off. It is a module of its own, so that nobody who uses tablexport pays for it.
//
//	go test ./... -args -program /path/to/tablexport -axe /path/to/axe.min.js -screenshots /tmp/pages
package browser
