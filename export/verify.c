/* Answers an exported version's golden rows with TensorFlow's C API: no Python, no Keras.
 *
 *     verify <version folder>
 *
 * Reads assets.extra/golden/<signature>.bin (export/golden.py has its form) for each signature, feeds
 * the inputs by their names in the graph, and compares every output with what the model itself gave.
 * Exit status: 0 where all agree, 1 where one does not, 2 where something cannot be read or run.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MAX_TENSORS = 256, MAX_RANK = 8, MAX_NAME = 512 };

static const double kTolerance = 2.5e-6; /* of a logit beyond ±1: so much of its size */
static const char kMagic[8] = {'A', 'T', '4', 'C', 'T', 'R', 0, 1};
static const char *const kSignatures[] = {"serving_default", "examples", "candidates"};

typedef struct {
  const char *file;
  const unsigned char *at, *end;
} Reader;

typedef struct {
  TF_Output output;
  TF_Tensor *tensor;
} Named;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "error: %s: %s\n", what, why);
  exit(2);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static void *allocated(size_t size) {
  void *found = malloc(size ? size : 1);
  if (found == NULL) fail("memory", "exhausted");
  return found;
}

static const unsigned char *take(Reader *reader, uint64_t size) {
  if (size > (uint64_t)(reader->end - reader->at)) fail(reader->file, "it is cut short");
  const unsigned char *found = reader->at;
  reader->at += size;
  return found;
}

static uint64_t number(Reader *reader, int bytes) {
  const unsigned char *digits = take(reader, (uint64_t)bytes);
  uint64_t found = 0;
  for (int i = bytes - 1; i >= 0; --i) found = found << 8 | digits[i];
  return found;
}

/* "name:1" -> the operation's second output. */
static TF_Output output(TF_Graph *graph, Reader *reader) {
  char name[MAX_NAME];
  const uint64_t size = number(reader, 4);
  if (size >= sizeof name) fail(reader->file, "a tensor's name is too long");
  memcpy(name, take(reader, size), size);
  name[size] = 0;
  char *colon = strrchr(name, ':');
  if (colon == NULL) fail(reader->file, "a tensor's name has no index");
  *colon = 0;
  const TF_Output found = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (found.oper == NULL) fail(name, "the graph has no such operation");
  if (found.index < 0 || found.index >= TF_OperationNumOutputs(found.oper))
    fail(name, "the operation has no such output");
  return found;
}

static Named named(TF_Graph *graph, Reader *reader) {
  Named found = {output(graph, reader), NULL};
  const TF_DataType type = (TF_DataType)number(reader, 4);
  if (type != TF_OperationOutputType(found.output)) fail(reader->file, "a tensor's type differs");
  const uint64_t rank = number(reader, 4);
  if (rank > MAX_RANK) fail(reader->file, "a tensor has too many dimensions");
  int64_t dims[MAX_RANK];
  uint64_t count = 1;
  for (uint64_t i = 0; i < rank; ++i) {
    dims[i] = (int64_t)number(reader, 8);
    if (dims[i] < 0 || (dims[i] && count > (uint64_t)INT32_MAX / (uint64_t)dims[i]))
      fail(reader->file, "a tensor is too large");
    count *= (uint64_t)dims[i];
  }
  const size_t each = type == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(type);
  if (each == 0) fail(reader->file, "a tensor's type has no size");
  found.tensor = TF_AllocateTensor(type, dims, (int)rank, count * each);
  if (found.tensor == NULL) fail("memory", "exhausted");
  if (type != TF_STRING) { /* little-endian, as every machine that TensorFlow is built for */
    const unsigned char *values = take(reader, count * each);
    if (count) memcpy(TF_TensorData(found.tensor), values, count * each);
    return found;
  }
  TF_TString *texts = TF_TensorData(found.tensor);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t size = number(reader, 4);
    TF_TString_Init(&texts[i]);
    TF_TString_Copy(&texts[i], (const char *)take(reader, size), size);
  }
  return found;
}

/* Largest difference of two float tensors, by the size of what was expected beyond 1. */
static double difference(const TF_Tensor *found, const TF_Tensor *expected, const char *file) {
  const size_t size = TF_TensorByteSize(expected);
  if (TF_TensorType(expected) != TF_FLOAT || size == 0)
    fail(file, "an expected answer is empty or no float");
  if (TF_TensorType(found) != TF_FLOAT || TF_TensorByteSize(found) != size) return INFINITY;
  const float *a = TF_TensorData(found), *b = TF_TensorData(expected);
  double worst = 0;
  for (size_t i = 0; i < size / sizeof *a; ++i) {
    const double d = fabs((double)a[i] - b[i]) / fmax(1.0, fabs((double)b[i]));
    if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
  }
  return worst;
}

static Reader opened(const char *file) {
  FILE *stream = fopen(file, "rb");
  if (stream == NULL) fail(file, strerror(errno));
  if (fseek(stream, 0, SEEK_END) != 0) fail(file, strerror(errno));
  const long size = ftell(stream);
  if (size < 0 || fseek(stream, 0, SEEK_SET) != 0) fail(file, strerror(errno));
  unsigned char *bytes = allocated((size_t)size);
  if (fread(bytes, 1, (size_t)size, stream) != (size_t)size) fail(file, "it cannot be read");
  fclose(stream);
  Reader reader = {file, bytes, bytes + size};
  if (memcmp(take(&reader, sizeof kMagic), kMagic, sizeof kMagic) != 0)
    fail(file, "it is no file of golden rows of form 1");
  return reader;
}

/* Asks one signature; 1 where its answers agree. */
static int replay(TF_Session *session, TF_Graph *graph, TF_Status *status, const char *folder,
                  const char *signature) {
  char file[4096];
  const int size =
      snprintf(file, sizeof file, "%s/assets.extra/golden/%s.bin", folder, signature);
  if (size < 0 || (size_t)size >= sizeof file) fail(folder, "the path is too long");
  Reader reader = opened(file);
  const unsigned char *const bytes = reader.at - sizeof kMagic;
  const uint64_t inputs = number(&reader, 4), outputs = number(&reader, 4);
  if (inputs > MAX_TENSORS || outputs > MAX_TENSORS || outputs == 0)
    fail(file, "its number of tensors makes no sense");
  TF_Output in[MAX_TENSORS], out[MAX_TENSORS];
  TF_Tensor *given[MAX_TENSORS], *expected[MAX_TENSORS], *answer[MAX_TENSORS] = {NULL};
  for (uint64_t i = 0; i < inputs + outputs; ++i) {
    const Named one = named(graph, &reader);
    (i < inputs ? in : out)[i < inputs ? i : i - inputs] = one.output;
    (i < inputs ? given : expected)[i < inputs ? i : i - inputs] = one.tensor;
  }
  if (reader.at != reader.end) fail(file, "it is longer than its tensors");
  TF_SessionRun(session, NULL, in, given, (int)inputs, out, answer, (int)outputs, NULL, 0, NULL,
                status);
  check(status, signature);
  double worst = 0;
  for (uint64_t i = 0; i < outputs; ++i) {
    worst = fmax(worst, difference(answer[i], expected[i], file));
    TF_DeleteTensor(answer[i]);
    TF_DeleteTensor(expected[i]);
  }
  for (uint64_t i = 0; i < inputs; ++i) TF_DeleteTensor(given[i]);
  free((void *)bytes);
  const int good = worst <= kTolerance;
  printf("%s %s: largest difference %.3g, at most %g\n", good ? "ok    " : "FAILED", signature,
         worst, kTolerance);
  return good;
}

int main(int count, char **words) {
  if (count != 2) {
    fprintf(stderr, "usage: %s <version folder>\n", words[0]);
    return 2;
  }
  const char *const tags[] = {"serve"};
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  if (status == NULL || graph == NULL || options == NULL) fail("memory", "exhausted");
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, NULL, status);
  check(status, words[1]);
  int good = 1;
  for (size_t i = 0; i < sizeof kSignatures / sizeof *kSignatures; ++i)
    good &= replay(session, graph, status, words[1], kSignatures[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  printf("TensorFlow %s, C API: %s\n", TF_Version(), good ? "every answer agrees" : "refused");
  return good ? 0 : 1;
}
