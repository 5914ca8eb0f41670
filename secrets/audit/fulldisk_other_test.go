//go:build !linux && !darwin

package audit

func childFullDisk(string) int { return 3 }
