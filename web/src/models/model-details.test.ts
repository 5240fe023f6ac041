import {describe, expect, it} from 'vitest';
import {parseDetails} from './model-details';

describe('the details of a model', () => {
  it('are read from what Ollama says', () => {
    const details = parseDetails({
      license: ' MIT ', template: '{{ .Prompt }}', parameters: 'num_ctx 4096', capabilities: ['completion', 'vision'],
      details: {format: 'gguf', family: 'llama', parameter_size: '3.2B', quantization_level: 'Q4_K_M', parent_model: ''},
      model_info: {'general.architecture': 'llama', 'llama.context_length': 131072},
    });
    expect(details).toMatchObject({license: 'MIT', family: 'llama', quantization: 'Q4_K_M', contextLength: 131072, capabilities: ['completion', 'vision']});
  });

  it.each([null, [], 'x', {details: 7, capabilities: {}, model_info: [], license: {}}, {capabilities: [1, null], model_info: {'a.context_length': '9'}}])(
    'are empty if a model says something else: %#',
    body => expect(parseDetails(body)).toMatchObject({license: '', family: '', contextLength: null, capabilities: []}),
  );

  it('have a bounded length', () => expect(parseDetails({license: 'x'.repeat(1e6)}).license).toHaveLength(200_000));
});
