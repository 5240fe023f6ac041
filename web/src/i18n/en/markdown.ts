export const markdown = {
  'markdown.code': 'Code',
  'markdown.table': 'Table',
  'markdown.copy': 'Copy',
  'markdown.copied': 'Copied',
  'markdown.notCopied': 'Not copied: the browser refused',
  'markdown.done': 'Done',
  'markdown.open': 'Not done',
  'markdown.leadsTo': 'Leads to {host}',
  'markdown.image': 'Image',
  'markdown.showImage': 'Address of the image',
  'markdown.imageReveals': 'Images in answers are not loaded. Opening this one tells {host} your IP address, and everything in its address, which the model chose:',
  'markdown.openImage': 'Open in a new tab',
} as const;
