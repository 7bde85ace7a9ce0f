/* SPDX-License-Identifier: MIT */
/*
 * iov.h - bytes in pieces: copies out of, and into, an array of iovecs.
 *
 * Both go from byte `offset` of all there is, end where the pieces do, and return how many bytes
 * they have copied. Threads: any.
 */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <string.h>

#include <sys/uio.h>

/* The next piece at or after byte *offset of piece *i, at most `max` bytes; of none at the end. */
static inline struct iovec iov_next(const struct iovec *iov, int count, int *i, size_t *offset,
				    size_t max)
{
	while (*i < count && *offset >= iov[*i].iov_len)
		*offset -= iov[(*i)++].iov_len;
	if (*i == count)
		return (struct iovec){ 0 };
	size_t n = iov[*i].iov_len - *offset < max ? iov[*i].iov_len - *offset : max;
	struct iovec piece = { (char *)iov[*i].iov_base + *offset, n };
	*offset += n;
	return piece;
}

static inline size_t iov_read(const struct iovec *iov, int count, size_t offset, void *buffer,
			      size_t size)
{
	size_t done = 0;
	int i = 0;

	while (done < size) {
		struct iovec piece = iov_next(iov, count, &i, &offset, size - done);
		if (piece.iov_len == 0)
			break;
		memcpy((char *)buffer + done, piece.iov_base, piece.iov_len);
		done += piece.iov_len;
	}
	return done;
}

static inline size_t iov_write(const struct iovec *iov, int count, size_t offset,
			       const void *buffer, size_t size)
{
	size_t done = 0;
	int i = 0;

	while (done < size) {
		struct iovec piece = iov_next(iov, count, &i, &offset, size - done);
		if (piece.iov_len == 0)
			break;
		memcpy(piece.iov_base, (const char *)buffer + done, piece.iov_len);
		done += piece.iov_len;
	}
	return done;
}

#endif /* BASE_IOV_H */
