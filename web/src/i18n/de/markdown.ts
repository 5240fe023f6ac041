export const markdown = {
  'markdown.code': 'Code',
  'markdown.table': 'Tabelle',
  'markdown.copy': 'Kopieren',
  'markdown.copied': 'Kopiert',
  'markdown.notCopied': 'Nicht kopiert: der Browser lehnt es ab',
  'markdown.done': 'Erledigt',
  'markdown.open': 'Offen',
  'markdown.leadsTo': 'Führt zu {host}',
  'markdown.image': 'Bild',
  'markdown.showImage': 'Adresse des Bildes',
  'markdown.imageReveals': 'Bilder in Antworten werden nicht geladen. Wer dieses öffnet, verrät {host} seine IP-Adresse und alles in der Adresse, die das Modell gewählt hat:',
  'markdown.openImage': 'In neuem Tab öffnen',
} as const;
