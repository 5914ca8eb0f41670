package secrets

import (
	"os"

	"golang.org/x/sys/unix"
)

// page is n bytes of memory of their own, or nil. A limit on locked memory (RLIMIT_MEMLOCK) leaves a page that may be swapped and still is in no core dump.
func page(n int) []byte {
	size := (n + os.Getpagesize() - 1) / os.Getpagesize() * os.Getpagesize()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	_ = unix.Mlock(b)
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_DONTFORK)
	return b[:n]
}

func release(b []byte) { _ = unix.Munmap(b[:cap(b)]) }
